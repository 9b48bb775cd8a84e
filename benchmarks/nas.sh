#!/usr/bin/env bash
# Does a curriculum rank networks better than as many steps on real data? A teacher is meta-trained on CIFAR-10; then networks of a published
# table are scored by its curriculum, by real data (up to 8 times as many steps, tuned; annealed and constant), by what costs no training, and by a
# predictor of all that, fitted on 16 networks' real trainings; searches within budgets of seconds are replayed on those scores.
#   benchmarks/nas.sh --size cpu --space nas-bench-201 --networks 200 --table ... --data FOLDER --out FOLDER   by the times of single steps 4 hours of a core for the
#       teacher and 2 for the candidates; not run yet
#   benchmarks/nas.sh --size small --table nas-bench-macro-cifar10.csv --data FOLDER --out FOLDER      two CPU cores, under an hour
#   benchmarks/nas.sh --size paper --device cuda --networks 500 --workers 8 --table ... --out FOLDER   one GPU; not run yet
# --space nas-bench-201 takes the other table, --teacher FOLDER a teacher that is there. A second run goes on where the first was stopped.
# --size cpu: a teacher that meets a pool of the space's networks, narrow and on 16 x 16 pixels, and is taught to rank. --seed N: another teacher,
# in another --out. --targets table: the pool is the table's, and its entries are the targets in place of real short trainings; never judged.
# --size tiny runs the same lines on digits, with a table made up on the spot, to see that they work.
set -euo pipefail
cd "$(dirname "$0")/.."
device=cpu size=small out="" table="" teacher="" networks=60 workers=2 space=nas-bench-macro times=8 data=() seed=0 targets=real
while [ $# -gt 0 ]; do
    case "$1" in
        --device) device=$2 ;;
        --size) size=$2 ;;
        --out) out=$2 ;;
        --table) table=$2 ;;
        --teacher) teacher=$2 ;;
        --networks) networks=$2 ;;
        --workers) workers=$2 ;;
        --space) space=$2 ;;
        --seed) seed=$2 ;;
        --targets) targets=$2 ;;
        --data) data=(--data-dir "$2") ;;
        *) echo "unknown flag $1; see the first lines of $0" >&2; exit 2 ;;
    esac
    shift 2
done
[ -n "$out" ] || { echo "give the folder for the results: --out FOLDER" >&2; exit 2; }
mkdir -p "$out"
python=${PYTHON:-.venv/bin/python}
train=() rank=(--space "$space" --networks "$networks" "${data[@]}" --device "$device")
case "$size" in
    tiny)
        train=(--preset tiny --meta.outer-steps 4 --meta.learners 2 --meta.sample-learners nas-bench-macro --meta.sample-pool 2
            --meta.rank-weight 0.5 --meta.rank-steps 4 --fidelity.channels 4 --fidelity.valid-images 100)
        table="$out/table.csv" rank=(--dataset digits --networks 6 --predictor-networks 3 --bootstrap 20 --estimate.channels 4
            --estimate.valid-images 100 --estimate.read-at 2 --estimate.real-lrs 0.1 --estimate.real-momenta 0.5 --estimate.tuning-networks 1)
        printf '%s\n' arch,accuracy 00000000,1 01010101,2 10101010,3 22222222,4 00112200,5 02020202,6 11111111,7 21212121,8 > "$table"
        steps=4 batch=20 times=2 ;;
    small)
        train=(--preset cifar10-small "${data[@]}")
        rank+=(--estimate.valid-images 500 --estimate.lr-scales 1 0.5 0.25 0.125 --estimate.real-lrs 0.01 0.03 0.1 0.3 --estimate.real-momenta 0.9 --estimate.tuning-networks 2)
        steps=16 batch=20 ;;
    cpu)
        preset=nas-201-cpu sizes=(--estimate.channels 8 --estimate.image-size 16)
        [ "$space" != nas-bench-macro ] || preset=nas-macro-cpu
        [ "$space" = nas-bench-macro ] || sizes+=(--estimate.cells 1)  # said here, since real data begin before the teacher is there
        train=(--preset "$preset" "${data[@]}")
        rank+=("${sizes[@]}" --estimate.lr-scales 1 0.5 0.25 --estimate.real-lrs 0.03 0.1 0.3 --estimate.real-momenta 0.9)
        steps=$([ "$preset" = nas-macro-cpu ] && echo 16 || echo 32) batch=64 times=16 ;;
    paper)
        train=(--preset cifar10-paper "${data[@]}")
        rank+=(--estimate.valid-images 5000 --estimate.lr-scales 1 0.5 0.25)
        steps=128 batch=128 ;;
    *) echo "the sizes are tiny, cpu, small and paper, not $size" >&2; exit 2 ;;
esac
[ -n "$table" ] || { echo "give the table of accuracies: --table FILE.csv" >&2; exit 2; }
[ -n "$teacher" ] || teacher="$out/teacher"
train+=(--seed "$seed")
case "$targets" in
    real) ;;
    table)
        case "$size" in tiny | cpu) ;; *) echo "--targets table goes with --size tiny or cpu, whose teachers have a pool" >&2; exit 2 ;; esac
        train+=(--meta.rank-table "$table") ;;
    *) echo "the targets are real and table, not $targets" >&2; exit 2 ;;
esac
baselines=(real real-constant params flops synflow naswot)

rank=("$python" -m minigtn nas rank "$table" "${rank[@]}" --out "$out/rank" --estimate.curriculum "$teacher"
    --estimate.steps "$steps" --estimate.real-steps $((times * steps)) --estimate.batch-size "$batch")
baselines_pid=""
stop_baselines() {  # they finish the score in hand; the last line goes on with the rest
    [ -z "$baselines_pid" ] || { kill -TERM "$baselines_pid" 2> /dev/null && wait "$baselines_pid"; } || true
}
trap stop_baselines EXIT

if [ ! -e "$teacher/curriculum.safetensors" ]; then
    # the baselines need no teacher: on a CPU they begin on the core that it leaves free
    [ "$device" = cuda ] || { "${rank[@]}" --estimators "${baselines[@]}" > "$out/baselines.log" 2>&1 & baselines_pid=$!; }
    resume=$([ -e "$teacher/checkpoint.safetensors" ] && echo --resume || true)
    "$python" -m minigtn train "${train[@]}" --device "$device" --out "$teacher" $resume
    stop_baselines
fi
"${rank[@]}" --estimators gtn "${baselines[@]}" --workers "$workers"
echo "all: $SECONDS s"
