#!/bin/sh
# Drains one list with a job array: every element runs `forrest run` on the same shared folder, with
# as many processes as it was given cores.
#
#     sbatch --array=0-9 --cpus-per-task=8 --time=4:00:00 run.sh /shared/tasklist
#
# Elements may start whenever there is room for them, and end whenever the site wants: what an element
# had not finished goes back to the list, where the others find it. It says so with the exit code 75,
# and is queued again if it was not cancelled. More elements may be submitted for the same list at any
# time.

#SBATCH --job-name=forrest
#SBATCH --array=0-3
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=2
#SBATCH --time=1:00:00
#SBATCH --signal=TERM@60
#SBATCH --requeue
#SBATCH --open-mode=append

job="${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"

# When this job must end; `NONE` if it need not, and then there is nothing to tell forrest.
end=$(squeue --noheader --jobs "$job" --format %e)
case $end in
[0-9]*) left="--time-left=$(($(date --date "$end" +%s) - $(date +%s)))" ;;
*) left= ;;
esac

# With a handler, the shell waits for `srun` when Slurm sends SIGTERM to everything in the job.
trap : TERM

# `srun` does not pass on the job's own `--cpus-per-task` since Slurm 22.05.
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" \
  forrest run "$1" --processes="$SLURM_CPUS_PER_TASK" --stop-signal=TERM $left
code=$?

# After `scancel`, or if Slurm queues the job again itself, it is no longer RUNNING.
if [ $code -eq 75 ] && [ "$(squeue --noheader --jobs "$job" --format %T)" = RUNNING ]; then
  scontrol requeue "$job"
fi
exit $code
