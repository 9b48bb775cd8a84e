#!/usr/bin/env bash
# Everything that needs a GPU, in one go (under 9 minutes: every part has a limit, and so has the whole); the short table comes last:
#   benchmarks/gpu_all.sh --out benchmarks/records/<date>_gpu
# Every part writes into --out as it goes, and one that fails, hangs or is missing costs no other.
# --device cpu --size tiny runs the same lines in small, so that only CUDA itself is left untried.
set -uo pipefail
cd "$(dirname "$0")/.."
device=cuda size=full out=""
while [ $# -gt 0 ]; do
    case "$1" in
        --device) device=$2 ;;
        --size) size=$2 ;;
        --out) out=$2 ;;
        *) echo "unknown flag $1; there are --out FOLDER, --device cuda|cpu, --size full|tiny" >&2; exit 2 ;;
    esac
    shift 2
done
[ -n "$out" ] || { echo "give the folder for the records: --out FOLDER" >&2; exit 2; }
mkdir -p "$out"
python=${PYTHON:-.venv/bin/python}
summary="$out/summary.txt"
: > "$summary"
failed=0

step() {  # name, seconds it may take, command: its output goes to a log, one line to the summary
    local name=$1 limit=$2 start=$SECONDS left=$((525 - SECONDS))
    shift 2
    [ "$limit" -le "$left" ] || limit=$left
    [ "$limit" -gt 5 ] || { skip "$name" "no time left"; failed=1; return; }
    timeout --kill-after=5 "$limit" "$@" > "$out/$name.log" 2>&1
    case $? in
        0) verdict=done ;;
        124 | 137) verdict="OVER $limit s"; failed=1 ;;
        *) verdict=FAILED; failed=1 ;;
    esac
    printf '%-22s %-14s %4d s\n' "$name" "$verdict" $((SECONDS - start)) | tee -a "$summary"
}

skip() { printf '%-22s skipped: %s\n' "$1" "$2" | tee -a "$summary"; }

if [ "$device" = cuda ]; then
    export CUBLAS_WORKSPACE_CONFIG=:4096:8  # deterministic products, for Reversible
    precisions=(float32 tf32) marker=(-m gpu)
else
    precisions=(float32) marker=()
fi
tests=() s=L rounds=3
[ "$size" = full ] || { tests=(tests/teaching/test_generator.py); s=tiny; rounds=1; }
for package in jax cupy higher torchopt betty; do
    "$python" -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('$package') is None)" || skip "$package" "not installed"
done

if "$python" -c "import pytest" 2> /dev/null; then
    step pytest 60 "$python" -m pytest "${marker[@]}" "${tests[@]}"
else
    skip pytest "not installed"
fi
step check 30 "$python" -m minigtn check --device "$device"
for precision in "${precisions[@]}"; do
    step "meta_gradient_$precision" 215 "$python" -u benchmarks/meta_gradient.py --size "$s" --device "$device" \
        --precision "$precision" --rounds "$rounds" --out "$out"
done
step evaluation 40 "$python" benchmarks/evaluation.py --size "$size" --device "$device" --out "$out"
if [ "$device" = cuda ]; then
    step outer_step 120 "$python" benchmarks/outer_step.py --preset mnist-paper --device cuda --precision tf32 --out "$out"
else
    step outer_step 60 "$python" benchmarks/outer_step.py --size tiny --out "$out"
fi

for precision in "${precisions[@]}"; do
    echo "-- $precision" >> "$summary"
    grep -sE '^(size|method|plain|torch|higher|betty|JAX|minigtn|\((plain|minigtn)|matrix|floor|beside|fastest|checkpointed|.*skipped)' \
        "$out/meta_gradient_$precision.log" >> "$summary"
    grep -sq '^method' "$out/meta_gradient_$precision.log" || grep -s '^round' "$out/meta_gradient_$precision.log" >> "$summary"
done
grep -shE '[0-9]+ (passed|failed|skipped)' "$out/pytest.log" 2> /dev/null | tail -n 1 >> "$summary"
tail -n 3 "$out/evaluation.log" >> "$summary" 2> /dev/null
tail -n 3 "$out/outer_step.log" >> "$summary" 2> /dev/null
echo
cat "$summary"
exit $failed
