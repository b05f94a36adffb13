#!/bin/sh
# Runs each task of a list as an element of its own of a job array, for tasks that differ in nothing but
# their input and each need an allocation of their own (memory, a GPU, hours).
#
#     ls /shared/tasklist/todo/*.json > tasks.txt
#     sbatch --array="1-$(wc -l < tasks.txt)%50" --mem=16G --time=4:00:00 exec.sh tasks.txt
#
# Many short tasks are better served by run.sh: Slurm starts some tens of jobs a second at best, and
# refuses arrays that are larger than the site's `MaxArraySize` (1,001 unless it was changed).
#
# An element whose task is done already does nothing, so that the same array can be submitted again.

#SBATCH --job-name=forrest
#SBATCH --ntasks=1
#SBATCH --time=1:00:00
#SBATCH --signal=TERM@60
#SBATCH --requeue
#SBATCH --open-mode=append

job="${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"

trap : TERM # as in run.sh
srun forrest exec "$(sed -n "${SLURM_ARRAY_TASK_ID}p" "$1")"
code=$?

# 75: another run has the task just now; 143: it was stopped, and went back to the list.
if [ $code -eq 75 ] || [ $code -eq 143 ] && [ "$(squeue --noheader --jobs "$job" --format %T)" = RUNNING ]; then
  scontrol requeue "$job"
fi
exit $code
