#!/bin/bash
# dreamjax: 8 x h100-8. Written by `dreamjax launch slurm`; submit it with sbatch.
#SBATCH --job-name=dreamjax
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --partition=long
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -u

# the job's own SIGTERM (a preemption, its time limit) goes to the tasks, which save and end with 75; this script waits
trap 'true' TERM
export DREAMJAX_COORDINATOR=auto
export DREAMJAX_LOCAL_DEVICES=8
{ source venv/bin/activate; } || exit 1

srun --kill-on-bad-exit=0 dreamjax launch host --grace=120 -- train --config configs/pretrain/base.py --workdir gs://BUCKET/base --config.data.path=gs://BUCKET/eeg &
step=$!
wait "$step"
code=$?
while kill -0 "$step" 2>/dev/null; do # a signal ended the wait, not the step
  wait "$step"
  code=$?
done

# 75: stopped by a signal, or a process was lost; the same job goes on from its last saved step
if [ "$code" -eq 75 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 100 ]; then
  scontrol requeue "$SLURM_JOB_ID" && exit 0
fi
exit "$code"
