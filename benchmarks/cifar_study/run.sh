#!/bin/sh
# The reference study on CIFAR-10, step by step through the suite's own commands; each goes on where it was.
#
#   benchmarks/cifar_study/run.sh cpu path/to/cifar10      # 4,000 images, 20 epochs, 0.2 to 6 M multiply-adds, two cores
#   benchmarks/cifar_study/run.sh cpu-all path/to/cifar10  # 45,000 images, 3 epochs, 0.5 to 25 M, and the presets with weights
#   benchmarks/cifar_study/run.sh gpu path/to/cifar10      # all of them, 5 to 200 M multiply-adds, one GPU
#
# RUNS is the folder for studies (results/runs), STEPS the steps to take, WORKERS how many candidates train at a time (one a
# core; eight on a GPU, which one small network alone leaves idle). For cpu-all PRESETS says which trials, read off the
# fronts, are trained again beside the rivals and then longer, as "s=cifar-cpu-all:13 m=cifar-cpu-all:34 l=cifar-cpu-large:0".
set -eu
scale=$1 source=$2
here=$(dirname "$0")
runs=${RUNS:-results/runs}
python=${PYTHON:-.venv/bin/python}
crossvit=${CROSSVIT:-.venv/bin/crossvit}
networks=$runs/cifar-networks
steps="search rivals ablation shortcuts finalists"
workers=

case $scale in
cpu)
    data=$runs/cifar10-subset space=$here/cifar_cpu.yaml limit=6M trials=60 sampled=16
    sizes="crossvit_nano_32 nano_32_half"
    [ -d "$data" ] || "$python" "$here/subset.py" "$source" "$data" --train 4000 --val 2000 ;;
cpu-all)
    data=$runs/cifar10-all space=$here/cifar_cpu_all.yaml limit=6M trials=40
    steps="search conv large rivals ablation presets longer"
    sizes="crossvit_nano_32 nano_32_half"
    [ -d "$data" ] || "$python" "$here/subset.py" "$source" "$data" --train 45000 --val 5000 ;;
gpu)
    data=$source space=cifar limit=200M trials=100 sampled=48 workers=8
    steps="control $steps"
    sizes="crossvit_micro_32 crossvit_tiny_32" ;;
*)
    echo "usage: $0 cpu|cpu-all|gpu path/to/cifar10" >&2
    exit 2 ;;
esac
workers=${WORKERS:-$workers}
common="--runs-dir $runs --executor local${workers:+ --workers $workers}"
rivals=$("$python" "$here/networks.py" "$networks" --max-flops $limit | tail -1)
if [ "$scale" = cpu-all ]; then # some of them, for their time
    rivals=$networks/one_branch_16_w128.json
    for name in family_4_16_w12 family_4_8_w12 vit_w32 family_4_16_w9 family_2_4_w6 family_4_16_w24; do
        rivals=$rivals,$networks/$name.json
    done
    for preset in ${PRESETS:-}; do # and finalists, by the same recipe
        case $preset in *=cifar-cpu-all:*) rivals=$rivals,${preset#*=} ;; esac
    done
fi

for step in ${STEPS:-$steps}; do
    case $step in
    control) # the plain ViT of 6.3 M parameters, which others report with 90.9 %; two CrossViTs beside it for their seeds' spread
        "$crossvit" search --space "$space" --data "$data" --study "cifar-$scale-control" --trials 1 --epochs 200 --no-weights $common
        "$crossvit" bench "cifar-$scale-control" --baselines "$networks/vit_w384.json,crossvit_micro_32,crossvit_tiny_32" \
            --train --seeds 3 --runs-dir "$runs" ;;
    search)
        "$crossvit" search --space "$space" --data "$data" --study "cifar-$scale" --trials $trials --no-weights $common ;;
    conv | large) # what the first search leaves out: convolutions beside attention; the upper end, which its hypervolume hardly sees
        "$crossvit" search --space "$here/cifar_cpu_$step.yaml" --data "$data" --study "cifar-cpu-$step" --no-weights $common ;;
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
    longer) # some of the rivals by the recipe of the presets
        longer=crossvit_nano_32
        for name in one_branch_16_w128 vit_w32 vit_w48 family_4_16_w24 family_4_16_w36; do
            longer=$longer,$networks/$name.json
        done
        OMP_NUM_THREADS=1 "$crossvit" bench cifar-cpu-all-retrain --baselines "$longer" --train --seeds 3 --runs-dir "$runs" ;;
    finalists)
        "$crossvit" retrain "cifar-$scale" --finalists 5 --prefer knee --seeds 3 $common ;;
    presets) # the networks that come with weights: trained longer, tested once, exported
        : "${PRESETS:?says which trials, as above}"
        for study in cifar-cpu-all cifar-cpu-large; do
            chosen=$(printf '%s\n' $PRESETS | sed -n "s/.*=$study://p" | paste -sd, -)
            "$crossvit" retrain $study --trials "$chosen" --epochs 20 --seeds "${SEEDS:-3}" $common
            "$crossvit" select $study --trials "$chosen" --open-test --runs-dir "$runs"
        done
        for preset in $PRESETS; do
            trial=${preset#*=}
            "$crossvit" export "${trial%:*}" "${trial##*:}" --format safetensors \
                --out "$runs/crossvit_cifar_${preset%%=*}.safetensors" --force --runs-dir "$runs"
        done ;;
    esac
done
