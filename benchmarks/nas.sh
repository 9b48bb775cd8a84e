#!/usr/bin/env bash
# Do curricula rank networks better than real data? Teachers are meta-trained on CIFAR-10; then networks of a published table are scored by their
# curricula (the mean of a training by each), by real data (as many steps and more, tuned; annealed and constant), by what costs no training, by votes,
# and by a predictor fitted on 16 networks' real trainings; searches within budgets of seconds are replayed on those scores.
#   benchmarks/nas.sh --size cpu --space nas-bench-201 --networks 200 --table ... --data FOLDER --out FOLDER   two CPU cores: three teachers of ordinary
#       networks, 10 minutes each on a core of their own, and some 20 s for each network, nearly all of it real data
#   benchmarks/nas.sh --size paper --device cuda --networks 500 --workers 8 --table ... --out FOLDER           one GPU; not run yet
# --space nas-bench-201 takes the other table. --teachers N: so many outer seeds, the mean of their readings. --preset NAME: other teachers, such as
# nas-201-cpu, which goes on with a pool of the space's networks. A second run goes on where the first was stopped.
# --size tiny runs the same lines on digits, with a table made up on the spot, to see that they work.
set -euo pipefail
cd "$(dirname "$0")/.."
device=cpu size=cpu out="" table="" networks=100 workers=2 space=nas-bench-macro data=() teachers=3 preset=""
while [ $# -gt 0 ]; do
    case "$1" in
        --device) device=$2 ;;
        --size) size=$2 ;;
        --out) out=$2 ;;
        --table) table=$2 ;;
        --teachers) teachers=$2 ;;
        --preset) preset=$2 ;;
        --networks) networks=$2 ;;
        --workers) workers=$2 ;;
        --space) space=$2 ;;
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
        teachers=2
        train=(--preset tiny --meta.outer-steps 4 --meta.learners 2 --meta.sample-learners nas-bench-macro --meta.sample-pool 2
            --meta.rank-weight 0.5 --meta.rank-steps 4 --fidelity.channels 4 --fidelity.valid-images 100)
        table="$out/table.csv" rank=(--dataset digits --networks 6 --predictor-networks 3 --bootstrap 20 --estimate.channels 4
            --estimate.valid-images 100 --estimate.read-at 2 --estimate.real-lrs 0.1 --estimate.real-momenta 0.5 --estimate.tuning-networks 1)
        printf '%s\n' arch,accuracy 00000000,1 01010101,2 10101010,3 22222222,4 00112200,5 02020202,6 11111111,7 21212121,8 > "$table"
        sizes=(--estimate.steps 4 --estimate.real-steps 8 --estimate.batch-size 20) ;;
    cpu)
        train=(--preset "${preset:-cifar10-any}" "${data[@]}" --evaluation.learners 2 --evaluation.real-lrs 0.1 --evaluation.real-momenta 0.9
            --evaluation.tuning-learners 1 --evaluation.transfer 0)  # they are judged by the ranking
        rank+=(--estimate.channels 8 --estimate.image-size 16 --estimate.lr-scales 1 0.5 0.25 0.125 0.0625 --estimate.real-lrs 0.03 0.1 0.3
            --estimate.real-momenta 0.9 --estimate.read-at 32 128 288)  # said here, since real data begin before the teachers are there
        [ "$space" = nas-bench-macro ] || rank+=(--estimate.cells 1)
        sizes=(--estimate.steps 16 --estimate.real-steps 512 --estimate.batch-size 64) ;;
    paper)
        train=(--preset "${preset:-cifar10-any}" "${data[@]}")
        # T 128 on whole images, as the paper has it; --preset cifar10-paper is its generator and its learner
        [ -n "$preset" ] || train+=(--teacher.inner-steps 128 --teacher.batch-size 64 --fidelity.image-size 0 --meta.readout-every 32
            --meta.adjoint checkpointed)
        rank+=(--estimate.channels 32 --estimate.valid-images 5000 --estimate.lr-scales 1 0.5 0.25 --estimate.read-at 16 32 64 512)
        sizes=(--estimate.steps 128 --estimate.real-steps 1024 --estimate.batch-size 64) ;;
    *) echo "the sizes are tiny, cpu and paper, not $size" >&2; exit 2 ;;
esac
[ -n "$table" ] || { echo "give the table of accuracies: --table FILE.csv" >&2; exit 2; }
baselines=(real real-constant params flops synflow naswot)
[ "$size" != cpu ] || baselines=(real params flops synflow naswot)
more=()
for ((seed = 1; seed < teachers; seed++)); do more+=("$out/teacher-$seed"); done
rank=("$python" -m minigtn nas rank "$table" "${rank[@]}" "${sizes[@]}" --out "$out/rank" --estimate.curriculum "$out/teacher-0")
[ ${#more[@]} = 0 ] || rank+=(--estimate.more-curricula "${more[@]}")
baselines_pid=""
stop_baselines() {  # they finish the score in hand; the last line goes on with the rest
    [ -z "$baselines_pid" ] || { kill -TERM "$baselines_pid" 2> /dev/null && wait "$baselines_pid"; } || true
}
trap stop_baselines EXIT

if [ ! -e "$out/teacher-$((teachers - 1))/result.json" ] && [ "$device" != cuda ]; then
    # the baselines need no teacher: on a CPU they begin on the core that it leaves free
    "${rank[@]}" --estimators "${baselines[@]}" > "$out/baselines.log" 2>&1 & baselines_pid=$!
fi
for ((seed = 0; seed < teachers; seed++)); do
    teacher="$out/teacher-$seed"
    [ ! -e "$teacher/result.json" ] || continue
    resume=$([ -e "$teacher/checkpoint.safetensors" ] && echo --resume || true)
    "$python" -m minigtn train "${train[@]}" --seed "$seed" --device "$device" --out "$teacher" $resume
done
stop_baselines
baselines_pid=""
"${rank[@]}" --estimators gtn "${baselines[@]}" --workers "$workers"
echo "all: $SECONDS s"
