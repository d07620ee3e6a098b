"""The class of a run's experiment: its name, and the way back."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

from configs import UserError
from train.runs.experiments import import_experiment, name_of, own_experiment
from train.trm import TRMExperiment

OWN = "from train.trm import TRMExperiment\nclass Own(TRMExperiment): pass\nOther = 3"


def test_a_name_leads_back_to_its_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ownexperiment.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    own = import_experiment("ownexperiment:Own", "runs/own")
    assert issubclass(own, TRMExperiment)
    assert name_of(own) == "ownexperiment:Own"
    with pytest.raises(UserError, match="must be a subclass"):
        import_experiment("ownexperiment:Other", "runs/own")


@pytest.mark.parametrize("name", ["nowhere:Own", "train.trm:Own"])
def test_a_class_that_cannot_be_imported(name: str) -> None:
    with pytest.raises(UserError, match=r"runs/own.*PYTHONPATH.*experiment=Own"):
        import_experiment(name, "runs/own")


def test_a_script_is_named_by_its_file_and_not_run_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    main = ModuleType("__main__")
    main.__file__ = "/elsewhere/settled.py"
    own = type("Own", (TRMExperiment,), {"__module__": "__main__"})
    vars(main)["Own"] = own
    monkeypatch.setitem(sys.modules, "__main__", main)
    assert name_of(own) == "settled:Own"
    assert import_experiment("settled:Own", "runs/own") is own


def test_experiments_of_this_project_need_no_import() -> None:
    assert own_experiment({"kind": "trm", "experiment": name_of(TRMExperiment)}) is None
    assert own_experiment({"kind": "trm"}) is None, "of an earlier version"
    own = {"kind": "trm", "experiment": "settled:Settled"}
    assert own_experiment(own) == "settled:Settled"
