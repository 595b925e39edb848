"""Hydra's launchers start our trainings, in the versions that were tried together."""

from __future__ import annotations

import importlib.metadata
import os
import re
import stat
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, TINY, command

TOGETHER = {
    "hydra-core": "1.3.8",
    "hydra-joblib-launcher": "1.2.0",
    "hydra-submitit-launcher": "1.2.0",
    "submitit": "1.5.4",
    "joblib": "1.6.0",
    "optuna": "5.0.0",
    "ray": "2.60.0",
}
"""What constraints.txt installs and the tests below ran with. hydra-ray-launcher 1.2.2 wants cloudpickle < 3, so it has
an extra of its own (see docs/cluster.md)."""

SWEEP = ("-m", "model=ytmt_pcs", "seed=1,2", "loss=pixel", *TINY, "trainer=fast", "callbacks.panels=null", "test=false")


def test_the_pins_are_those_that_were_tried() -> None:
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (REPOSITORY / "constraints.txt").read_text(), flags=re.MULTILINE))
    assert {name: pins.get(name) for name in TOGETHER} == TOGETHER


def test_installed_launchers_fit_each_other() -> None:
    """What ``pip check`` says, of these packages and what they ask for."""
    packaging = pytest.importorskip("packaging.requirements")
    for name in TOGETHER:
        try:
            wanted = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for each in map(packaging.Requirement, wanted):
            if each.marker is None or each.marker.evaluate({"extra": ""}):
                version = importlib.metadata.version(each.name)
                assert each.specifier.contains(version, prereleases=True), f"{name} wants {each}, there is {version}"


def check(folder: Path) -> None:
    """Two trainings, each in its own folder."""
    jobs = sorted(path.parents[1].name for path in folder.glob("outputs/multirun/*/*/checkpoints/last.ckpt"))
    assert jobs == ["0", "1"]
    seeds = [(folder.glob(f"outputs/multirun/*/{job}/config.yaml")) for job in jobs]
    assert [re.search(r"^seed: (\d)", next(found).read_text(), re.MULTILINE)[1] for found in seeds] == ["1", "2"]  # type: ignore[index]


@pytest.mark.slow
def test_joblib(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    done = command("reflectzoo.train", *SWEEP, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", cwd=tmp_path)
    assert done.status == 0, done.err
    check(tmp_path)


@pytest.mark.slow
def test_submitit_on_this_machine(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    done = command("reflectzoo.train", *SWEEP, "hydra/launcher=submitit_local", cwd=tmp_path)
    assert done.status == 0, done.err
    check(tmp_path)


DEBUG = """
import submitit
real = submitit.AutoExecutor
submitit.AutoExecutor = lambda cluster, folder, **slurm_only: real(folder=folder, cluster="debug")
from reflectzoo.train import main
main()
"""


@pytest.mark.slow
def test_submitit_for_slurm_in_debug_mode(tmp_path: Path) -> None:
    """The SLURM launcher itself, its executor replaced by submitit's debugging one, which runs jobs in this process."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    (tmp_path / "debug.py").write_text(DEBUG)
    done = command("debug", *SWEEP, "hydra/launcher=submitit_slurm", cwd=tmp_path, PYTHONPATH=_path(tmp_path))
    assert done.status == 0, done.err
    check(tmp_path)


SBATCH = """#!/usr/bin/env bash
# A queue of one: takes the script, and runs it a little later, task by task.
script="${@: -1}"
cp "$script" "$QUEUE/script.sh"
export SLURM_JOB_ID=1 SLURM_ARRAY_JOB_ID=1 SLURM_JOB_NODELIST=here SLURM_NTASKS=1 SLURM_PROCID=0 SLURM_LOCALID=0
export SLURM_NODEID=0 SLURM_JOB_NUM_NODES=1 SLURM_TASKS_PER_NODE=1
(
  sleep 3
  for task in 0 1; do
    SLURM_ARRAY_TASK_ID=$task bash "$QUEUE/script.sh" > "$QUEUE/out-$task" 2>&1
    touch "$QUEUE/done-$task"
  done
) > /dev/null 2>&1 < /dev/null &
echo "Submitted batch job 1"
"""
SRUN = """#!/usr/bin/env bash
while [ "${1#-}" != "$1" ]; do
  case "$1" in --output|--error) shift 2;; *) shift;; esac
done
args=("${@//%j/1_$SLURM_ARRAY_TASK_ID}")
exec "${args[@]}"
"""
SACCT = """#!/usr/bin/env bash
echo "JobID|State|NodeList"
for task in 0 1; do
  [ -e "$QUEUE/done-$task" ] && echo "1_$task|COMPLETED|here" || echo "1_$task|RUNNING|here"
done
"""
SCONTROL = "#!/usr/bin/env bash\necho here\n"


@pytest.mark.slow
@pytest.mark.timeout(900)  # submitit asks sacct once a minute
def test_submitit_for_slurm_with_a_queue_of_one(tmp_path: Path) -> None:
    """The whole way through sbatch, srun and sacct, which are stand-ins that work on this machine."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "sacct": SACCT, "scontrol": SCONTROL}.items():
        (tools / name).write_text(text)
        (tools / name).chmod(stat.S_IRWXU)
    done = command(
        *("reflectzoo.train", *SWEEP, "hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpu"),
        *("hydra.launcher.gpus_per_node=4", "hydra.launcher.tasks_per_node=1", "hydra.launcher.timeout_min=90"),
        cwd=tmp_path,
        PATH=f"{tools}:{os.environ['PATH']}",
        QUEUE=str(tmp_path),
        timeout=800,
    )
    assert done.status == 0, done.err
    script = (tmp_path / "script.sh").read_text()
    for line in ("--partition=gpu", "--gpus-per-node=4", "--time=90", "--array=0-1"):
        assert f"#SBATCH {line}" in script
    check(tmp_path)


def _path(first: Path) -> str:
    return f"{first}:{os.environ.get('PYTHONPATH', '')}"
