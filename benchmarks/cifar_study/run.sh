#!/bin/sh
# The reference study on CIFAR-10, step by step through the suite's own commands; each goes on where it was.
#
#   benchmarks/cifar_study/run.sh cpu path/to/cifar10      # a part of the images, 0.2 to 6 M multiply-adds, two cores
#   benchmarks/cifar_study/run.sh gpu path/to/cifar10      # all of them, 5 to 200 M multiply-adds, one GPU
#
# RUNS is the folder for studies (results/runs), STEPS the steps to take.
set -eu
scale=$1 source=$2
here=$(dirname "$0")
runs=${RUNS:-results/runs}
steps=${STEPS:-search rivals ablation shortcuts finalists}
python=${PYTHON:-.venv/bin/python}
crossvit=${CROSSVIT:-.venv/bin/crossvit}

case $scale in
cpu)
    data=$runs/cifar10-subset space=$here/cifar_cpu.yaml limit=6M trials=60 sampled=16
    sizes="crossvit_nano_32 nano_32_half"
    [ -d "$data" ] || "$python" "$here/subset.py" "$source" "$data" --train 4000 --val 2000 ;;
gpu)
    data=$source space=cifar limit=200M trials=100 sampled=48
    sizes="crossvit_micro_32 crossvit_tiny_32" ;;
*)
    echo "usage: $0 cpu|gpu path/to/cifar10" >&2
    exit 2 ;;
esac
common="--runs-dir $runs --executor local"
networks=$runs/cifar-networks
rivals=$("$python" "$here/networks.py" "$networks" --max-flops $limit | tail -1)

for step in $steps; do
    case $step in
    search)
        "$crossvit" search --space "$space" --data "$data" --study "cifar-$scale" --trials $trials --no-weights $common ;;
    rivals) # the family scaled by hand and the plain ViTs: the same recipe, three seeds, last epoch
        OMP_NUM_THREADS=1 "$crossvit" bench "cifar-$scale" --baselines "$rivals" --train --seeds 3 --runs-dir "$runs" ;;
    ablation)
        for size in $sizes; do
            base=$size
            [ -f "$networks/$size.json" ] && base=$networks/$size.json
            "$crossvit" ablate --space "$space" --base "$base" --match flops --seeds 5 --data "$data" \
                --study "cifar-$scale-fusion-$size" --no-weights $common
        done ;;
    shortcuts) # nobody stopped, so that nothing hides what early accuracy would have said
        "$crossvit" search --space "$space" --data "$data" --study "cifar-$scale-shortcuts" --sampler random --stopping none \
            --trials $sampled --seed 1 --no-weights $common
        "$crossvit" retrain "cifar-$scale-shortcuts" --trials "$(seq -s, 0 $((sampled - 1)))" --seeds 1 $common ;;
    finalists)
        "$crossvit" retrain "cifar-$scale" --finalists 5 --prefer knee --seeds 3 $common ;;
    esac
done
