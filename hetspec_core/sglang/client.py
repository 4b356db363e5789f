"""A client of SGLang's HTTP API: facts of a server, its health, and answers while they are written.

It uses the standard library: one POST whose answer is read line by line needs no client library, which could conflict
with those that SGLang pins. Every answer is bounded in bytes and in time (`wire`).
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import json
import os
import socket
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from hetspec_core.errors import DataError, ModelError, ResourceError, StageFailed
from hetspec_core.sglang import versions
from hetspec_core.sglang.wire import Clock, connect, messages, read_table, read_whole, shown
from hetspec_core.spec import SamplingSpec

KEY_VARIABLE = "HETSPEC_SGLANG_API_KEY"
"""Environment variable: API key of the servers. A server that is started with `--api-key` gets that key instead."""

_SHORT_S = 10.0
_MOST_TOKEN_ID = 1 << 31
_SURPLUS = 1024
"""Tokens that a server may send beyond the limit: its last verify step may exceed it."""


@dataclass(frozen=True)
class Chunk:
    """A piece of an answer.

    Attributes:
        tokens: new tokens since the last piece.
        meta: the server's `meta_info`.
        at_s: seconds since the request was sent.
    """

    tokens: list[int]
    meta: dict[str, Any]
    at_s: float

    @property
    def finish(self) -> str:
        """Why the answer ended: stop, length, abort; empty before its end."""
        reason = self.meta.get("finish_reason")
        return str(reason.get("type", "")) if isinstance(reason, dict) else str(reason or "")


@dataclass(frozen=True)
class ServerFacts:
    """What a server reports of itself.

    Attributes:
        version: of SGLang.
        model: path of its base, as it was given.
        args: its settings, all of `server_info`.
        architectures: of its base.
        model_type: of its base, as in its config.json; empty when the server does not report it.
    """

    version: str
    model: str
    args: dict[str, Any] = field(default_factory=dict)
    architectures: tuple[str, ...] = ()
    model_type: str = ""

    @property
    def draft(self) -> str:
        """Path of its draft as it was given; empty without one."""
        return str(self.args.get("speculative_draft_model_path") or "")

    @property
    def speculates(self) -> bool:
        return bool(self.args.get("speculative_algorithm"))

    @property
    def tree(self) -> tuple[int, int, int] | None:
        """Steps, topk and draft tokens (root counted); None without speculation."""
        names = ("speculative_num_steps", "speculative_eagle_topk", "speculative_num_draft_tokens")
        found = [self.args.get(name) for name in names]
        if not self.speculates or not all(isinstance(value, int) for value in found):
            return None
        return tuple(found)  # type: ignore[return-value] - three numbers, as just checked

    @property
    def reserved_tokens(self) -> int:
        """Tokens of the context that the server reserves for drafts: the larger of topk x steps and draft tokens.

        See `compute_num_reserved_tokens` of SGLang 0.5.17.
        """
        steps, topk, tokens = self.tree or (0, 0, 0)
        return max(steps * topk, tokens)

    @property
    def context_tokens(self) -> int:
        """Limit of prompt and answer together; 0 when the server does not report it."""
        for name in ("context_length", "max_req_input_len"):
            value = self.args.get(name)
            if isinstance(value, int) and value > 0:
                return value
        return 0


class SGLangClient:
    """A client of one server.

    Args:
        url: http://HOST:PORT.
        timeout_s: seconds that a request may take; of a stream, seconds without a message.
        api_key: key of the server; that of the environment (HETSPEC_SGLANG_API_KEY) when empty.
    """

    def __init__(self, url: str, timeout_s: float = 300.0, api_key: str = "") -> None:
        self.url = url.rstrip("/")
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ResourceError(f"{url!r} is no address of a server", hint="it needs http://HOST:PORT")
        self._secure, self._host = parts.scheme == "https", parts.hostname
        self._port = parts.port or (443 if self._secure else 80)
        self._prefix = parts.path.rstrip("/")
        self._timeout_s = timeout_s
        self._incremental: bool | None = None
        key = api_key or os.environ.get(KEY_VARIABLE, "")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def facts(self) -> ServerFacts:
        """Ask the server for its facts, and check that its version is supported.

        Raises:
            ResourceError: there is no answer in time, or it is no SGLang, or its version is not supported.
        """
        model = self._get("/model_info", "/get_model_info")
        args = self._get("/server_info", "/get_server_info")
        version = str(args.get("version", ""))
        if not versions.is_supported(version):
            named = shown(version) or "of an unknown version"
            raise ResourceError(
                f"{self.url} is SGLang {named}; supported are {versions.RANGE}",
                hint="serve with a supported version: `hetspec-core doctor` shows which is installed here",
            )
        classes = model.get("architectures")
        self._incremental = bool(args.get("incremental_streaming_output"))
        return ServerFacts(
            version=version,
            model=str(model.get("model_path") or args.get("model_path") or ""),
            args=args,
            architectures=tuple(map(str, classes)) if isinstance(classes, list) else (),
            model_type=str(model.get("model_type") or ""),
        )

    def healthy(self) -> bool:
        """Whether the server can generate: it makes one token."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = self._connect(Clock(_SHORT_S))
            try:
                connection.request("GET", f"{self._prefix}/health_generate", headers=self._headers)
                return connection.getresponse().status == 200
            finally:
                connection.close()
        return False

    def generate(
        self,
        prompt: list[int],
        sampling: dict[str, Any],
        *,
        request_id: str = "",
        stop_asked: Callable[[], bool] = lambda: False,
    ) -> Iterator[Chunk]:
        """Answer a prompt: one piece per message of the server, the last with its figures.

        When `stop_asked` returns true between two pieces, the server is told to stop and the iterator ends.

        Raises:
            ModelError: the server refuses the request.
            StageFailed: it ended, or sent nothing in time, in the middle of the answer.
            DataError: it sent something that is no message.
        """
        body: dict[str, Any] = {"input_ids": prompt, "sampling_params": sampling, "stream": True}
        if request_id:
            body["rid"] = request_id
        if self._incremental is None:
            self.facts()
        started, clock = time.perf_counter(), Clock(self._timeout_s)
        most = sampling.get("max_new_tokens")
        with self._post("/generate", body, clock) as response:
            seen = 0
            for message in messages(response, self.url, clock):
                tokens = message.get("output_ids")
                meta = message.get("meta_info")
                if not isinstance(tokens, list) or not isinstance(meta, dict):
                    raise DataError(
                        f"{self.url} sent a message without output_ids and meta_info: {shown(message)}",
                        hint="is it SGLang, started without --skip-tokenizer-init?",
                    )
                new = tokens if self._incremental else tokens[seen:]
                if not all(type(token) is int and 0 <= token < _MOST_TOKEN_ID for token in new):
                    raise DataError(f"{self.url} sent output_ids that are no token ids: {shown(new[:8])}")
                seen += len(new)
                if isinstance(most, int) and seen > most + _SURPLUS:
                    raise DataError(f"{self.url} sent {seen:,} tokens; the limit was {most:,}")
                chunk = Chunk(new, meta, time.perf_counter() - started)
                if chunk.finish == "abort":
                    raise ModelError(f"{self.url} aborted the request: {shown(meta.get('finish_reason'))}")
                yield chunk
                if chunk.finish:
                    return
                if stop_asked():
                    self.abort(request_id)
                    return
        raise StageFailed(
            f"{self.url} ended the answer after {seen} tokens without saying why",
            hint="look into the server's log; it may have crashed",
        )

    def next_log_probs(self, prompt: list[int], count: int = 2) -> list[tuple[float, int]]:
        """The likeliest tokens after a prompt, with their log probabilities.

        Raises:
            ModelError, StageFailed, DataError: as `generate`.
        """
        body = {
            "input_ids": prompt,
            "sampling_params": {"temperature": 0.0, "max_new_tokens": 1, "ignore_eos": True},
            "return_logprob": True,
            "top_logprobs_num": count,
        }
        with self._post("/generate", body, Clock(self._timeout_s)) as response:
            answer = read_table(self._whole(response), self.url)
        try:
            rows = answer["meta_info"]["output_top_logprobs"][0]
            return [(float(row[0]), int(row[1])) for row in rows]
        except (ValueError, LookupError, TypeError, ArithmeticError) as error:
            raise DataError(f"{self.url} gave no log probabilities: {type(error).__name__}") from error

    def abort(self, request_id: str) -> None:
        """Tell the server to drop a request, and ignore errors."""
        with contextlib.suppress(Exception), self._post("/abort_request", {"rid": request_id}, Clock(_SHORT_S)) as it:
            read_whole(it, self.url)

    def flush_cache(self) -> None:
        """Empty the prefix cache, so that a prompt is computed again."""
        with contextlib.suppress(Exception), self._post("/flush_cache", {}, Clock(self._timeout_s)) as response:
            read_whole(response, self.url)

    # --- the wire ------------------------------------------------------------------------------------------------

    def _connect(self, clock: Clock) -> http.client.HTTPConnection:
        return connect(self._host, self._port, clock, secure=self._secure)

    def _get(self, *paths: str) -> dict[str, Any]:
        """The JSON object of the first of several paths that exists; older names come later."""
        status = 0
        for path in paths:
            connection = self._connect(Clock(_SHORT_S))
            try:
                connection.request("GET", self._prefix + path, headers=self._headers)
                response = connection.getresponse()
                status = response.status
                if status == 200:
                    return read_table(read_whole(response, f"{self.url}{path}"), f"{self.url}{path}")
            except DataError as error:
                raise ResourceError(error.message, hint=error.hint or "is it a server of SGLang?") from error
            except (OSError, http.client.HTTPException) as error:
                raise self._silent(error) from error
            finally:
                connection.close()
            if status != 404:
                break
        self._check_key(status)
        raise ResourceError(f"{self.url}{paths[0]} answers with status {status}", hint="is it a server of SGLang?")

    @contextlib.contextmanager
    def _post(self, path: str, body: dict[str, Any], clock: Clock) -> Iterator[http.client.HTTPResponse]:
        connection = self._connect(clock)
        try:
            try:
                headers = {"Content-Type": "application/json", **self._headers}
                connection.request("POST", self._prefix + path, json.dumps(body).encode(), headers)
                response = connection.getresponse()
                self._check_key(response.status)
                if response.status != 200:
                    text = shown(read_whole(response, self.url).decode(errors="replace"))
                    raise ModelError(f"{self.url} refuses the request with status {response.status}: {text}")
            except (OSError, http.client.HTTPException) as error:
                raise self._silent(error) from error
            yield response
        finally:
            connection.close()

    def _whole(self, response: http.client.HTTPResponse) -> bytes:
        try:
            return read_whole(response, self.url)
        except (OSError, http.client.HTTPException) as error:
            raise self._silent(error) from error

    def _check_key(self, status: int) -> None:
        if status in (401, 403):
            seen = "refuses the API key that it was given" if self._headers else "wants an API key"
            raise ResourceError(
                f"{self.url} {seen} (status {status})", hint=f"put the server's --api-key into {KEY_VARIABLE}"
            )

    def _silent(self, error: Exception) -> ResourceError:
        reason = "no answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
        return ResourceError(f"no server answers at {self.url}: {reason}", hint="is it running, and ready?")


def sampling_params(sampling: SamplingSpec, max_new_tokens: int, *, ignore_eos: bool) -> dict[str, Any]:
    """Sampling parameters for a request to SGLang."""
    found: dict[str, Any] = {
        "temperature": 0.0 if sampling.greedy else sampling.temperature,
        "max_new_tokens": max_new_tokens,
        "ignore_eos": ignore_eos,
    }
    if not sampling.greedy:
        found |= {"top_p": sampling.top_p, "top_k": sampling.top_k or -1, "sampling_seed": sampling.seed}
    return found


def free_port(host: str) -> int:
    """A free port.

    Raises:
        ResourceError: nothing can listen at this host.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        try:
            probe.bind((host, 0))
        except OSError as error:
            raise _no_place(host, 0, error) from error
        return int(probe.getsockname()[1])


def port_is_taken(host: str, port: int) -> bool:
    """Whether another program listens on a port.

    Raises:
        ResourceError: nothing can listen there, for another reason.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return True
            raise _no_place(host, port, error) from error
    return False


def _no_place(host: str, port: int, error: OSError) -> ResourceError:
    return ResourceError(
        f"nothing can listen at {host}{f':{port}' if port else ''}: {error.strerror}",
        hint="the host is an address of this machine (127.0.0.1, 0.0.0.0); ports below 1024 need rights",
    )
