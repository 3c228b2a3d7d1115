#!/bin/bash
# dreamjax on v5e-64 (64 chips). Written by `dreamjax launch tpu`; run it with bash.
# Look:   gcloud compute tpus queued-resources describe dreamjax --project=PROJECT --zone=us-west4-a
# Delete: gcloud compute tpus queued-resources delete dreamjax --project=PROJECT --zone=us-west4-a --force
set -euo pipefail

start=$(mktemp)
trap 'rm -f "$start"' EXIT
cat > "$start" <<'DREAMJAX_HOST'
#!/bin/bash
# on every host, at each boot
set -u
export DREAMJAX_COORDINATOR=auto
if [ ! -x /opt/dreamjax/bin/dreamjax ]; then
  python3 -m venv /opt/dreamjax && /opt/dreamjax/bin/pip install -q 'dreamjax[tpu,data]' || exit 1
fi
export PATH=/opt/dreamjax/bin:$PATH
cd /opt/dreamjax || exit 1
{ gsutil -m cp -r gs://BUCKET/code . && cd code; } || exit 1

# 75: a process was lost; all hosts end with it, start again, and go on from the last saved step
for _ in $(seq 101); do
  dreamjax launch host --grace=120 -- train --config configs/pretrain/base.py --workdir gs://BUCKET/base --config.data.path=gs://BUCKET/eeg
  code=$?
  if [ "$code" -ne 75 ]; then break; fi
  sleep 10
done
echo "dreamjax ended with exit code $code"
DREAMJAX_HOST

gcloud compute tpus queued-resources create dreamjax \
  --project=PROJECT \
  --zone=us-west4-a \
  --accelerator-type=v5litepod-64 \
  --runtime-version=v2-alpha-tpuv5-lite \
  --node-id=dreamjax \
  --spot \
  --metadata-from-file=startup-script="$start"
