#!/usr/bin/env bash
# Drive the real dashboard in tmux over the runs that are there, by keys alone, and check that every page appears.
#
#     HETSPEC_HOME=... scripts/tmux_tour.sh [FOLDER]
#
# Writes what each page looked like into FOLDER (a new one below /tmp when absent): NAME.txt, and NAME.ansi with its colours
# (`cat` shows it). HETSPEC says how to start the dashboard (default: hetspec), TOUR_SIZE the size of the terminal
# (default: 120x40), TOUR_TERM its TERM inside. It starts no run and changes none: the dashboard is opened with --read-only.
# Exit status: 0 when everything was seen, 1 when not, 77 where tmux is not installed.
set -euo pipefail

command -v tmux >/dev/null || { echo "skipped: tmux is not installed" >&2; exit 77; }
folder=${1:-$(mktemp -d "${TMPDIR:-/tmp}/hetspec-tour-XXXXXX")}
size=${TOUR_SIZE:-120x40}
patience=${TOUR_PATIENCE_S:-60}
socket=hetspec-tour-$$
mkdir -p "$folder"
rm -f "$folder/status"

in_tmux() { tmux -L "$socket" -f /dev/null "$@"; }
end() { in_tmux kill-server 2>/dev/null || true; }
trap end EXIT

screen() { in_tmux capture-pane -p -t tour; }

# press KEY...: as tmux names them.
press() { in_tmux send-keys -t tour "$@"; }

# see NAME TEXT...: wait until all these texts are on the screen, then keep what it looks like.
see() {
  local name=$1 text missing deadline=$((SECONDS + patience))
  shift
  while :; do
    missing=
    for text in "$@"; do
      grep -qF -- "$text" <<<"$(screen)" || { missing=$text; break; }
    done
    [ -z "$missing" ] && break
    if [ $SECONDS -ge $deadline ]; then
      echo "FAILED $name: no \"$missing\" on the screen:" >&2
      screen >&2
      exit 1
    fi
    sleep 0.1
  done
  sleep 0.3 # the rest of the page
  screen >"$folder/$name.txt"
  in_tmux capture-pane -p -e -t tour >"$folder/$name.ansi"
  echo "ok     $name"
}

# leave TEXT: escape, until this text is gone. The next key must not come at once: both would be one sequence.
leave() {
  local deadline=$((SECONDS + patience))
  press Escape
  while grep -qF -- "$1" <<<"$(screen)"; do
    [ $SECONDS -lt $deadline ] || { echo "FAILED escape: \"$1\" stays on the screen" >&2; screen >&2; exit 1; }
    sleep 0.1
  done
}

in_tmux new-session -d -s tour -x "${size%x*}" -y "${size#*x}" \
  "env TERM=${TOUR_TERM:-screen-256color} ${HETSPEC:-hetspec} --read-only; echo \$? >'$folder/status'"
in_tmux set-option -t tour remain-on-exit on # so that a crash can be read

see dashboard "HetSpec" "read-only" "Quit"
press 2
see runs "State" "Name" "Filter"
press /
see runs-filter "filter by:" # keys that come in the same moment still belong to the table
press -l "nothing-is-called-so"
see runs-filtered "nothing-is-called-so"
press Escape
see runs-again "State" "Mark"
if [ "$(screen | grep -cE 'succeeded|failed|cancelled|running|lost|queued')" -gt 0 ]; then
  press Enter
  see run "Curves" "Config" "Events"
  press 3
  see run-config "schema_version"
  press 2
  see run-log "Log"
  press 6
  see run-events "submitted"
  press Escape
  see runs-after-the-run "State" "Mark"
fi
press 3
see presets "recipe" "quick-demo"
press 4
see launch "pipeline" "hetspec-core pipeline"
press 1
see dashboard-again "Quit"
press '?'
see help "type to filter"
leave "type to filter"
press C-p
see palette "a page, run, preset"
leave "a page, run, preset"
press q
deadline=$((SECONDS + patience))
until [ -s "$folder/status" ]; do
  [ $SECONDS -lt $deadline ] || { echo "FAILED quit: it goes on" >&2; exit 1; }
  sleep 0.1
done
status=$(<"$folder/status")
[ "$status" = 0 ] || { echo "FAILED quit: status $status" >&2; exit 1; }
echo "ok     quit"
echo "$folder"
