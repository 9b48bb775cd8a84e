#!/usr/bin/env bash
# Everything that needs a GPU, in one go (made for under 9 minutes on one H200); the short table comes last:
#   benchmarks/gpu_all.sh --out benchmarks/records/<date>_gpu
# --device cpu --size tiny runs the same lines in small, so that only CUDA itself is left untried. --data: folder with the MNIST files.
set -uo pipefail
cd "$(dirname "$0")/.."
device=cuda size=full out="" data=()
while [ $# -gt 0 ]; do
    case "$1" in
        --device) device=$2 ;;
        --size) size=$2 ;;
        --out) out=$2 ;;
        --data) data=(--data-dir "$2") ;;
        *) echo "unknown flag $1; there are --out FOLDER, --device cuda|cpu, --size full|tiny, --data FOLDER" >&2; exit 2 ;;
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
    local name=$1 limit=$2 start=$SECONDS
    shift 2
    if timeout "$limit" "$@" > "$out/$name.log" 2>&1; then verdict=done; else verdict="FAILED ($?)"; failed=1; fi
    printf '%-22s %-14s %4d s\n' "$name" "$verdict" $((SECONDS - start)) | tee -a "$summary"
}

if [ "$size" = tiny ]; then
    sizes=(tiny) run=(--preset tiny) tests=(tests/test_generator.py)
else
    # validation every 100 outer steps is left as it is: part of the time of a run
    sizes=(L X) run=(--preset mnist-paper "${data[@]}" --meta.outer-steps 500 --evaluation.learners 20) tests=()
fi
[ "$device" = cpu ] || export CUBLAS_WORKSPACE_CONFIG=:4096:8  # deterministic products, for Reversible
peers=("torch checkpoint" "torch checkpoint, reentrant" higher torchopt betty)
step pytest 120 "$python" -m pytest $([ "$device" = cpu ] || echo "-m gpu") "${tests[@]}"
step check 60 "$python" -m minigtn check --device "$device"
for s in "${sizes[@]}"; do
    step "meta_gradient_$s" 120 "$python" benchmarks/meta_gradient.py --size "$s" --device "$device" --rounds 3 --profile --out "$out" \
        --without "${peers[@]}" "minigtn Checkpointed(sqrt T)" "minigtn Reversible"
done
step evaluation 60 "$python" benchmarks/evaluation.py --size "$size" --device "$device" --out "$out"
step train 180 "$python" -m minigtn train "${run[@]}" --device "$device" --out "$out/run" --overwrite
for s in "${sizes[@]}"; do
    grep -hE '^(plain|minigtn|\(minigtn|matrix|float32|bfloat16)' "$out/meta_gradient_$s.log" | sed "s/^/$s: /" >> "$summary"
done
tail -n 3 "$out/evaluation.log" >> "$summary" 2>/dev/null
echo
cat "$summary"
exit $failed
