#!/usr/bin/env bash
# On a lent GPU machine, in the repository's root: train lite for MINUTES, then the GPU tests and the benchmarks.
#   bash tools/gpu/run.sh keep             first call, with .gpu/photos carried: unpack them where they outlast the call
#   bash tools/gpu/run.sh MINUTES          second call at once, with .gpu/pairs carried
#   bash tools/gpu/run.sh --rehearse       here, without a GPU: a minute of training, the same steps
# All that is worth keeping comes into $OUT, the averaged weights every minute in pieces below 16 MiB. The settings of
# the training: BATCH, LR, CROP (two numbers), NET (JSON), COMPILE=1.
set -uo pipefail
OUT="${OUT:-outputs/gpu}"
SITE="${GPU_SITE:-/tmp/site}"
KEPT="${GPU_KEPT:-/tmp/kept}"
PYTHON="${PYTHON:-python3}"
mkdir -p "$OUT" "$KEPT"
export PYTHONUNBUFFERED=1 NO_ALBUMENTATIONS_UPDATE=1 WANDB_MODE=offline

unpack() { for tar in .gpu/photos/photos.tar .gpu/pairs/pairs.tar; do [ ! -f "$tar" ] || tar -xf "$tar" -C "$KEPT"; done; }

unpack
[ "${1:-}" != keep ] || { ls "$KEPT"; exit 0; }
minutes="${1:-6}"
rehearsal=""
[ "$minutes" != --rehearse ] || { rehearsal=1; minutes=0.7; BATCH="${BATCH:-4}"; }

if compgen -G "$KEPT/wheels/*.whl" > /dev/null && [ -z "$rehearsal" ]; then
  "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --target "$SITE" "$KEPT"/wheels/*.whl || exit 1
fi
export PYTHONPATH="$PWD/src:$SITE:${PYTHONPATH:-}"
"$PYTHON" -c 'import torch; print(torch.__version__, torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU")'

"$PYTHON" -m reflectzoo.methods.lite.sprint "$OUT" --photos "$KEPT/photos/train" \
  --pairs "$KEPT/pairs/zhang" "$KEPT/pairs/scenes" --val-pairs "$KEPT/pairs/val" --val-photos "$KEPT/photos/val" \
  --start "${START:-src/reflectzoo/weight_records/lite.safetensors}" --minutes "$minutes" --report 1 \
  --batch "${BATCH:-192}" --crop ${CROP:-192 256} --grow-at 0.7 --lr "${LR:-6e-4}" --real 0.4 ${NET:+--net "$NET"} \
  ${COMPILE:+--compile} 2>&1 | tee "$OUT/train.txt"
# The checkpoint is larger than what may come back, and a later machine starts from the averaged weights.
mv "$OUT/last.pt" "$KEPT/" 2> /dev/null

timeout 120 "$PYTHON" -m pytest -q -p no:cacheprovider -m gpu tests/test_gpu.py tests/data/test_synthesis_models.py \
  2>&1 | tee "$OUT/tests.txt"
batches=20 device=(--set trainer=gpu --set data.batch_size=8)
[ -z "$rehearsal" ] || { batches=1; device=(--set trainer.accelerator=cpu --set data.crop=64); }
timeout 60 "$PYTHON" -m reflectzoo.bench.train lite ytmt_ucs corrn --batches "$batches" "${device[@]}" \
  2>&1 | tee "$OUT/bench.txt"
ls -l "$OUT"
