"""The workers of this job, read from TF_CONFIG or Slurm without importing TensorFlow."""

import dataclasses
import os

from hvi_tf.config import strict_json
from hvi_tf.errors import UserError

STRATEGIES = ("one", "mirrored", "multiworker")

# Slurm jobs on one node listen on different ports, below the ports that Linux gives to clients.
FIRST_PORT, PORTS_PER_JOB, JOBS = 20_000, 64, 199


@dataclasses.dataclass(frozen=True)
class Member:
    """This process among the workers of a job; worker 0 is the chief, which does all writing."""

    index: int
    count: int
    by_slurm: bool = False


def check(strategy: str, replicas: int, workdir: str) -> Member:
    """Returns this process under the flags --strategy, --replicas and --workdir.

    Raises:
        UserError: if a flag is wrong, or contradicts another flag or the environment.
    """
    if strategy not in STRATEGIES:
        raise UserError(
            f"--strategy={strategy}: choose {', '.join(STRATEGIES[:-1])} or multiworker"
        )
    if replicas and strategy != "mirrored":
        raise UserError(f"--replicas={replicas}: for --strategy=mirrored; leave it out")
    if strategy != "multiworker":
        return Member(0, 1)
    process = member()
    if not workdir:
        raise UserError(
            "--strategy=multiworker: name the run's --workdir, a folder that all workers share"
        )
    return process


def member() -> Member:
    """Returns this process from the environment: TF_CONFIG if it is set, else a Slurm task.

    Raises:
        UserError: if the environment has neither, or TF_CONFIG has another form than TensorFlow's.
    """
    if os.environ.get("TF_CONFIG"):
        return _of_tf_config(os.environ["TF_CONFIG"])
    if "SLURM_JOB_ID" in os.environ:
        try:
            numbers = [int(os.environ[f"SLURM_{n}"]) for n in ("PROCID", "STEP_NUM_TASKS")]
        except (KeyError, ValueError):
            raise UserError(
                "--strategy=multiworker: this process is no task of its Slurm job; start it by "
                "srun, as launch/slurm.sbatch does"
            ) from None
        return Member(numbers[0], numbers[1], by_slurm=True)
    raise UserError(
        "--strategy=multiworker: neither TF_CONFIG nor Slurm names the workers; start it by "
        "launch/multiworker_local.sh or launch/slurm.sbatch"
    )


def _of_tf_config(text: str) -> Member:
    """Returns this process from the text of TF_CONFIG."""
    try:
        config = strict_json.parse(text)
        cluster, task = config["cluster"], config["task"]
        order = [
            (kind, i) for kind in ("chief", "worker") for i in range(len(cluster.get(kind, [])))
        ]
        return Member(order.index((task["type"], int(task["index"]))), len(order))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"TF_CONFIG={text}: {error!r}; write it like "
            '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, '
            '"task": {"type": "worker", "index": 0}}'
        ) from None


def port_base(job_id: int) -> int:
    """Returns the port of the first task of a Slurm job on each node."""
    return FIRST_PORT + job_id % JOBS * PORTS_PER_JOB
