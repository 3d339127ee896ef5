"""``mlpcli explain`` on configs, runs and pictures: output and errors."""

from __future__ import annotations

import json
import re
import shutil
import warnings

import numpy as np
import pytest
from PIL import Image

from mlpcli import config, experiment
from mlpcli.config import DataConfig
from mlpcli.datasets import idx
from mlpcli.datasets.load import load_split
from tests.commands.conftest import Result

SAMPLE = ("data.dataset=mnist-sample", "training.epochs=1", "network.hidden=[8]", "data.test=false")
# A small untrained network.
FEW = ("--set", "network.hidden=[8]")


class Explained(Result):
    """The outcome of ``mlpcli explain``."""

    @property
    def document(self):
        assert (self.status, self.err) == (0, ""), self.err
        return json.loads(self.out)

    def __getitem__(self, name):
        return np.array(next(e["values"] for e in self.document["equations"] if e["name"] == name))


@pytest.fixture
def mlpcli(mlpcli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    return lambda *arguments: Explained(**vars(mlpcli("explain", *arguments)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "one"
    experiment.train(config.load(None, SAMPLE, {}), out=path)
    return path


@pytest.fixture(scope="module")
def validation():
    return load_split(DataConfig("mnist-sample"), "validation").split


def refused(result, status):
    assert (result.status, result.out) == (status, "")
    assert result.err.startswith("mlpcli: ") and result.err.count("\n") == 1
    assert "Traceback" not in result.err
    return result.err


def test_equations_are_printed_in_order(mlpcli):
    result = mlpcli(*FEW)
    assert (result.status, result.err) == (0, "")
    assert "784-8-10, sigmoid, softmax_cross_entropy; initial weights of seed 0" in result.out
    assert "image 0 of the train images of mnist-sample; true class 5" in result.out
    formulas = re.findall(r"^(\(\d+\)|    ) (?: ?)(\S.*?) = ", result.out, re.MULTILINE)
    wanted = ["z1", "a1", "z2", "p", "C", "dz2", "dW2", "db2", "da1", "dz1", "dW1", "db1", "R", "dR/dW1", "dR/dW2"]
    assert [name for _, name in formulas if name in wanted] == wanted
    assert all(len(line) <= 80 for line in result.out.splitlines())
    # The whole Jacobian, and every column of all other tables.
    assert " cut: " not in result.out
    assert "\033" not in result.out  # no colours without a terminal


@pytest.mark.parametrize("columns", [40, 60, 200])
def test_output_fits_the_terminal_and_counts_hidden_columns(mlpcli, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    out = mlpcli("--set", "network.hidden=[30,20]", "--set", "network.activation=tanh").out
    assert max(map(len, out.splitlines())) <= columns
    assert (" cut: " in out) == (columns < 80)


@pytest.mark.parametrize(
    "overrides",
    [
        ["network.hidden=[]"],
        ["network.activation=relu", "network.objective=linear_hinge"],
        ["network.hidden=[5,4,3]", "network.dtype=float64", "training.l2=0"],
        ["network.objective=normalized_sigmoid", "data.preprocessing=deskew"],
    ],
)
def test_every_kind_of_network_is_explained(mlpcli, overrides):
    settings = [part for override in overrides for part in ("--set", override)]
    assert mlpcli(*FEW, *settings).status == 0
    checks = mlpcli(*FEW, *settings, "--json").document["checks"]
    for check in checks:
        assert check["value"] == pytest.approx(check["complex_step"], rel=1e-10, abs=1e-14)


def test_weights_of_another_network_are_explained(mlpcli, trained):
    hidden = config.flatten(config.load(trained / "config.yaml", [], {}))["network.hidden"]
    result = mlpcli(*FEW, "--set", f"network.hidden={list(hidden)}", "--set", f"network.init={trained}", "--json")
    image = np.array(result.document["image"], np.uint8).ravel()
    np.testing.assert_allclose(result["p"], experiment_p(trained, image), atol=1e-5)
    refused(mlpcli(*FEW, "--set", "network.init=none"), 4)


def test_run_is_explained_on_its_validation_images(mlpcli, trained, validation):
    result = mlpcli(trained, "--index", 3, "--json")
    assert result.document["label"] == validation.labels[3]
    np.testing.assert_array_equal(result.document["image"], validation.images[3].reshape(28, 28))
    p = experiment_p(trained, validation.images[3])
    np.testing.assert_allclose(result["p"], p, atol=1e-5)
    other = mlpcli(trained, "--split", "train", "--json").document
    assert other["image"] != result.document["image"]


@pytest.mark.parametrize("order", ["shuffled", "stratified"])
def test_image_of_a_run_is_one_that_it_held_out(mlpcli, tmp_path, order):
    run = tmp_path / "run"
    settings = config.load(None, [*SAMPLE, f"data.validation_order={order}", "seed=3"], {})
    experiment.train(settings, out=run)
    held_out = load_split(settings.data, "validation", 3).split
    document = mlpcli(run, "--index", 5, "--json").document
    np.testing.assert_array_equal(document["image"], held_out.images[5].reshape(28, 28))
    assert document["label"] == held_out.labels[5]
    network = ("--set", "seed=3", "--set", f"data.validation_order={order}", *FEW)
    document = mlpcli(*network, "--split", "validation", "--index", 5, "--json").document
    np.testing.assert_array_equal(document["image"], held_out.images[5].reshape(28, 28))


def test_label_of_other_data_is_a_class_of_the_network(mlpcli, trained, tmp_path):
    images = np.arange(20 * 28 * 28, dtype=np.uint16).astype(np.uint8).reshape(20, 28, 28)
    np.savez(tmp_path / "few.npz", x_train=images, y_train=np.tile([7, 3], 10))
    for index, label in enumerate((7, 3)):
        found = mlpcli(trained, "--data", tmp_path / "few.npz", "--split", "train", "--index", index, "--json")
        assert found.document["label"] == label


def experiment_p(run, image):
    import mlpcli as api

    return api.load(run).predict(image.reshape(28, 28)).p[0]


def test_steps_and_rate(mlpcli, trained):
    one = mlpcli(trained, "--rate", "0.002", "--json").document
    assert (one["step"]["rate"], one["small_step"]["rate"]) == (0.002, 0.0002)
    ten = mlpcli(trained, "--rate", "0.002", "--steps", "10", "--json").document
    assert ten["step"]["loss_after"] < one["step"]["loss_after"] < one["step"]["loss_before"]
    assert "eta = 0.002, 10 steps" in mlpcli(trained, "--rate", "0.002", "--steps", "10").out


def test_units_are_shown_as_asked(mlpcli):
    out = mlpcli(*FEW, "--unit", "3", "--unit", "1:7").out
    assert re.findall(r"^ +(\d+) +-?[\d.e-]+ +0\.\d+ +0\.\d+$", out, re.MULTILINE) == ["3", "7"]


def test_layers_without_a_given_unit_show_the_default(mlpcli):
    found = mlpcli("--set", "network.hidden=[8,6]", "--unit", "2:5")
    assert len(re.findall(r"^ +5 .*\d$", found.out.partition("(8)  dz2")[2].partition("(5)")[0], re.MULTILINE)) == 1
    assert "dW1 of unit" in found.out


@pytest.mark.parametrize("arguments", [["mnist"], ["--label", 3], ["--index", 4], ["--steps", 2]])
def test_neuron_refuses_options_of_networks(mlpcli, arguments):
    assert "does not apply" in refused(mlpcli("--neuron", *arguments), 2)


def test_predicted_decrease_is_that_of_the_first_step(mlpcli):
    assert "predicted by the first step" in mlpcli(*FEW, "--steps", 3).out


def test_formulas_have_their_brackets(mlpcli):
    out = mlpcli(*FEW, "--set", "network.activation=tanh", "--set", "network.objective=sigmoid_cross_entropy").out
    assert "(8)  dz1 = da1 * (1 - a1^2)" in out
    assert "-sum [Y ln p + (1 - Y) ln(1 - p)]" in out


@pytest.mark.parametrize(("activation", "heading"), [("sigmoid", "4.6"), ("tanh", "2.3"), ("relu", "z <= 0")])
def test_saturation_is_that_of_the_activation(mlpcli, activation, heading):
    assert heading in mlpcli(*FEW, "--set", f"network.activation={activation}").out.partition("learning stalls")[2]


def test_saturation_depends_on_the_objective(mlpcli):
    (factor,) = mlpcli("--set", "network.initial_scale=20", *FEW, "--json").document["factors"]
    assert factor["saturated"] > 0.5
    assert factor["median"] < 0.01


def test_picture_is_centred_or_raw(mlpcli, trained, tmp_path, validation):
    k = int(np.flatnonzero(validation.labels == 1)[0])
    image = validation.images[k].reshape(28, 28)
    Image.fromarray(image).save(tmp_path / "one.png")
    raw = mlpcli(trained, "--image", tmp_path / "one.png", "--raw", "--json", "--label", 1)
    np.testing.assert_array_equal(raw.document["image"], image)
    assert raw.document["label"] == 1
    # Without a label the predicted class is assumed, with a note.
    text = " ".join(mlpcli(trained, "--image", tmp_path / "one.png").out.split())
    assert re.search(r"the predicted class \d is used as the true one", text)
    (tmp_path / "two-idx3-ubyte").write_bytes(idx.encode(np.stack([image, image.T])))
    second = mlpcli(trained, "--image", tmp_path / "two-idx3-ubyte", "--index", 1, "--json").document
    np.testing.assert_array_equal(second["image"], image.T)
    (tmp_path / "emnist-two-idx3-ubyte").write_bytes((tmp_path / "two-idx3-ubyte").read_bytes())
    swapped = mlpcli(trained, "--image", tmp_path / "emnist-two-idx3-ubyte", "--index", 1, "--json")
    np.testing.assert_array_equal(json.loads(swapped.out)["image"], image)
    assert "rows and columns swapped" in swapped.err


@pytest.mark.parametrize("columns", [50, 80])
def test_classes_are_called_by_their_names(mlpcli, monkeypatch, tiny_config, tmp_path, columns):
    names = ["Boot", "Shirt", "A coat with a name that is longer than any"]
    run = tmp_path / "named"
    experiment.train(tiny_config(f"data.class_names={json.dumps(names)}", "data.test=false"), out=run)
    monkeypatch.setenv("COLUMNS", str(columns))
    out = mlpcli(run, "--label", 1).out
    assert "true class 1 Shirt" in out
    assert "p of 1 Shirt before" in out
    # In every table of the classes; the column takes the room that the others leave.
    assert len(re.findall(r"^ +0 Boot +\S", out, re.MULTILINE)) == 3
    assert len(re.findall(r"^ +1 Shirt +\S", out, re.MULTILINE)) == 3
    assert len(re.findall(r"^ +2 A coat with a name that is longer than any +\S", out, re.MULTILINE)) == (columns == 80)
    assert len(re.findall(r"^ +2 A c[a-z ]*\. +\S", out, re.MULTILINE)) == (2 if columns == 80 else 3)
    assert max(map(len, out.splitlines())) <= columns
    assert mlpcli(run, "--json").document["network"]["class_names"] == names


def test_names_cost_no_column(mlpcli, monkeypatch, tiny_config, tmp_path):
    run = {}
    for name, more in (("numbers", []), ("names", [f"data.class_names={json.dumps(['x' * 40, 'y' * 40, 'z' * 40])}"])):
        run[name] = tmp_path / name
        experiment.train(tiny_config(*more, "data.test=false"), out=run[name])
    for columns in (40, 50, 60, 80, 120):
        monkeypatch.setenv("COLUMNS", str(columns))
        cuts = [re.findall(r"cut: ([^;]*)", mlpcli(path, "--label", 1).out) for path in run.values()]
        assert cuts[0] == cuts[1]


def test_digits_are_called_digits_by_a_network_of_clothes(mlpcli, tmp_path):
    clothes = ("--set", "data.dataset=fashion-mnist")
    assert "true class 5\n" in mlpcli(*FEW, *clothes).out  # an image of the bundled sample
    Image.fromarray(np.tile(np.arange(28, dtype=np.uint8), (28, 1))).save(tmp_path / "coat.png")
    assert "true class 4 Coat\n" in mlpcli(*FEW, *clothes, "--image", tmp_path / "coat.png", "--raw", "--label", 4).out


def test_several_true_classes(mlpcli):
    document = mlpcli(*FEW, "--set", "network.objective=sigmoid_cross_entropy", "--label", "3,7", "--json").document
    assert document["label"] == [3, 7]
    assert "--label 3,7" in refused(mlpcli(*FEW, "--label", "3,7"), 2)


def test_output_layer_alone(mlpcli):
    p = "0.01,0.11,0.31,0.11,0.21,0.01,0.01,0.01,0.21,0.01"
    out = mlpcli("--p", p, "--label", 2).out
    assert "C = 1.171183" in out
    assert "-3.225806" in out
    assert "sum to" not in out
    assert "sum to 0.7" in mlpcli("--p", "0.5,0.2", "--label", 0).out
    document = mlpcli("--z", "1,2,3", "--label", 0, "--set", "training.label_smoothing=0.3", "--json").document
    assert document["Y"] == pytest.approx([0.8, 0.1, 0.1])
    assert sum(document["terms"].values()) == pytest.approx(document["loss"])
    assert all(len(line) <= 80 for line in out.splitlines())


@pytest.mark.parametrize("option", ["--p", "--z"])
def test_single_output_takes_one_number(mlpcli, option):
    settings = ("--set", "network.single_output=true", "--set", "network.objective=sigmoid_cross_entropy")
    assert mlpcli(option, "0.3", "--label", 1, *settings).status == 0
    found = mlpcli(option, "0.3,0.7", "--label", 1, *settings)
    said = f"mlpcli: {option} 0.3,0.7: network.single_output has one output; give one number\n"
    assert (found.status, found.out, found.err) == (2, "", said)


@pytest.mark.parametrize("columns", [50, 80])
@pytest.mark.parametrize("objective", ["softmax_cross_entropy", "sigmoid_cross_entropy", "linear_hinge"])
def test_output_layer_alone_fits_the_terminal(mlpcli, monkeypatch, objective, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    for given in ("--p", "--z"):
        out = mlpcli(given, "0.5,0.2,0.1", "--label", 0, "--set", f"network.objective={objective}").out
        assert max(map(len, out.splitlines())) <= columns


def test_one_neuron(mlpcli):
    result = mlpcli("--neuron")
    assert result.status == 0
    assert all(len(line) <= 80 for line in result.out.splitlines())
    quadratic, entropy = mlpcli("--neuron", "--json").document["curves"]
    assert (quadratic["objective"], entropy["objective"]) == ("sigmoid_quadratic", "sigmoid_cross_entropy")
    assert len(quadratic["p"]) == 301


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--index", 5000], "--index 5000: the train images of mnist-sample are 0 to 4499"),
        (["--label", 10], "--label 10: the classes are 0 to 9"),
        (["--label", "x"], "--label x"),
        (["--unit", 8], "--unit 1:8: the units of layer 1 are 0 to 7"),
        (["--unit", "2:0"], "--unit 2:0: the network has 1 hidden layer"),
        (["--unit", "x"], "--unit x"),
        (["--rate", 0], "--rate 0"),
        (["--rate", "nan"], "--rate nan"),
        (["--raw"], "--raw is for the picture of --image"),
        (["--p", "0.5,0.5", "--z", "1,2"], "--p and --z"),
        (["--p", "0.5,0.5"], "--label"),
        (["--p", "0.5,x", "--label", 0], "--p 0.5,x"),
        (["--z", "1", "--label", 0], "--z 1"),
        (["--p", "1.5,0.5", "--label", 0], "must be above 0 and below 1"),
        (["--p", "0.5,0.5", "--label", 0, "--unit", 1], "--unit does not apply"),
        (["--neuron"], "--set does not apply"),
        (["--set", "network.hiden=[1]"], "hidden"),
        (["--image", "x.png", "--split", "test"], "to which --split does not apply"),
        (["--image", "x.png", "--offline"], "--image takes the image from a file, to which --offline does not apply"),
        (["--image", "x.png", "--source", "y"], "to which --source does not apply"),
        (["--image", "x.png", "--folder", "y"], "to which --folder does not apply"),
        (["--offline", "--source", "x"], "--offline"),
    ],
)
def test_wrong_usage_is_one_line(mlpcli, arguments, words):
    assert words in refused(mlpcli(*FEW, *arguments), 2)


def test_wrong_pictures_runs_and_configs_are_refused(mlpcli, trained, tmp_path):
    refused(mlpcli("no-such-config"), 2)
    assert "--set is for configs" in refused(mlpcli(trained, *FEW), 2)
    refused(mlpcli(*FEW, "--image", tmp_path / "none.png"), 3)
    both = np.zeros((60, 120), np.uint8)
    both[15:45, 20:26] = both[15:45, 90:96] = 255
    Image.fromarray(both).save(tmp_path / "two.png")
    assert "2 digits" in refused(mlpcli(*FEW, "--image", tmp_path / "two.png"), 3)
    Image.fromarray(0 * both).save(tmp_path / "blank.png")
    assert "blank" in refused(mlpcli(*FEW, "--image", tmp_path / "blank.png"), 3)
    run = shutil.copytree(trained, tmp_path / "run")
    (run / "checkpoints" / "best.npz").write_bytes(b"junk")
    assert "damaged" in refused(mlpcli(run), 4)


def test_nonfinite_network_is_reported(mlpcli):
    assert "not finite" in refused(mlpcli(*FEW, "--set", "network.initial_scale=1e39"), 4)


def test_every_gradient_shown_has_a_complex_step(mlpcli):
    document = mlpcli("--set", "network.hidden=[6,5]", "--json").document
    names = {check["name"] for check in document["checks"]}
    assert names == {"dp", "db3", "dW3", "da2", "db2", "dW2", "da1", "db1", "dW1"}
    for check in document["checks"]:
        assert check["value"] == pytest.approx(check["complex_step"], rel=1e-11, abs=1e-16), check


def test_dW1_is_drawn_for_each_shown_unit(mlpcli):
    units = [word for unit in (0, 3, 7) for word in ("--unit", unit)]
    printed = mlpcli(*FEW, *units).out
    assert [f"dW1 of unit {unit}" in printed for unit in (0, 3, 5, 7)] == [True, True, False, True]


def test_connections_are_counted(mlpcli):
    found = mlpcli("--set", "network.hidden=[30,20]", "--set", "network.receptive_fields=[5]").out
    (line,) = (line for line in found.splitlines() if line.startswith("(14)"))
    assert re.fullmatch(r"\(14\) dW1 = M1 \* dW1 +2,\d\d\d of 23,520 weights: norm \S+", line)


def test_neuron_uses_the_given_rate(mlpcli):
    assert "eta = 0.15" in mlpcli("--neuron").out
    assert "eta = 0.01" in mlpcli("--neuron", "--rate", "0.01").out


def test_one_sigmoid_equals_two_softmax_outputs(mlpcli):
    two = mlpcli("--z", "0.4,1.7", "--label", "1", "--json").document
    one = ("--z", "1.3", "--set", "network.objective=sigmoid_cross_entropy", "--json")
    yes, no = (mlpcli(*one, "--label", label).document for label in (1, 0))
    assert yes["loss"] == pytest.approx(two["loss"], rel=1e-14)
    assert yes["p"][0] == pytest.approx(two["p"][1], rel=1e-14)
    assert yes["dz"][0] == pytest.approx(two["dz"][1], rel=1e-14)
    assert no["loss"] == pytest.approx(mlpcli("--z", "0.4,1.7", "--label", "0", "--json").document["loss"], rel=1e-14)
    refused = mlpcli("--z", "1.3", "--label", "1")
    assert (refused.status, "softmax_cross_entropy compares outputs" in refused.err) == (2, True)
    refused = mlpcli(*one, "--label", "2")
    assert (refused.status, "0 or 1" in refused.err) == (2, True)


def test_network_of_one_output_unit_is_explained(mlpcli):
    settings = ("network.hidden=[]", "network.single_output=true", "network.objective=sigmoid_cross_entropy")
    found = mlpcli(*(word for each in settings for word in ("--set", each)), "--label", "1")
    assert (found.status, "p - Y" in found.out) == (0, True)
    assert "     p before" in found.out
    # It is the unit of no class, and no objective that compares outputs takes it.
    assert re.search(r"^ +unit +z1 +p +Y$", found.out, re.MULTILINE)
    assert "dW1 of unit 0" in found.out
    deltas = mlpcli(*(word for each in settings for word in ("--set", each)), "--label", "1", "--json").document[
        "deltas"
    ]
    assert set(deltas) == {"sigmoid_cross_entropy", "sigmoid_quadratic", "linear_quadratic"}
    number = ("network.single_output=true", "network.objective=linear_quadratic")
    deltas = mlpcli(*(word for each in number for word in ("--set", each)), "--label", "7", "--json").document["deltas"]
    assert set(deltas) == {"linear_quadratic"}


def test_smoothed_targets_of_training_are_mentioned(mlpcli):
    smoothed = mlpcli(*FEW, "--set", "training.label_smoothing=0.1").out.splitlines()
    plain = mlpcli(*FEW).out.splitlines()
    assert [line for line in smoothed if line not in plain] == [
        "note     training smooths the targets by 0.1; Y below is the label itself"
    ]


@pytest.mark.parametrize(
    ("setting", "note"),
    [
        ("training.dropout=0.5", "training drops units by (11) and (12); below, none is dropped"),
        ("training.input_dropout=0.5", "training drops units by (11) and (12); below, none is dropped"),
        ("training.adversarial=2", "training moves the image by (13) first; below, it is where it was"),
    ],
)
def test_what_only_training_does_is_mentioned(mlpcli, setting, note):
    trained = mlpcli(*FEW, "--set", setting).out.splitlines()
    plain = mlpcli(*FEW).out.splitlines()
    assert [line for line in trained if line not in plain] == [f"note     {note}"]


def test_targets_of_a_teacher_are_mentioned(mlpcli):
    taught = mlpcli(*FEW, "--set", "training.teacher=[runs/other]").out.splitlines()
    plain = mlpcli(*FEW).out.splitlines()
    assert [line for line in taught if line not in plain] == [
        "note     in training, training.teacher gives Y; below, Y is the label itself"
    ]


def test_teacher_has_no_targets_for_given_outputs(mlpcli):
    for option in ("--p", "--z"):
        found = mlpcli(option, "0.5,0.5", "--label", 0, "--set", "training.teacher=[runs/other]")
        assert (found.status, found.err) == (
            2,
            f"mlpcli: {option} has no image, for which training.teacher has targets: leave out training.teacher\n",
        )


def test_empty_list_of_outputs_is_refused(mlpcli):
    for option in ("--p", "--z"):
        found = mlpcli(option, "", "--label", 0)
        assert (found.status, found.err) == (2, f"mlpcli: {option} : are not numbers with commas between them\n")


@pytest.mark.parametrize(
    ("labels", "values", "expected"),
    [("0", "1,2,3", [0.8, 0.1, 0.1]), ("0,2", "1,2,3", [0.85, 0.15, 0.85]), ("none", "1,2,3", [0.15] * 3)],
)
def test_given_logits_have_the_targets_of_training(mlpcli, labels, values, expected):
    settings = ("--set", "network.objective=sigmoid_cross_entropy", "--set", "training.label_smoothing=0.3")
    found = mlpcli("--z", values, "--label", labels, *settings, "--json").document
    np.testing.assert_allclose(found["Y"], expected, atol=1e-15)


@pytest.mark.parametrize("arguments", [("--z", "1e200,0"), ("--z", "1e308,-1e308")])
def test_infinite_numbers_are_null(mlpcli, arguments):
    quadratic = ("--set", "network.objective=linear_quadratic")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        document = mlpcli(*arguments, "--label", 0, *quadratic, "--json").document
    assert document["loss"] is None


def test_infinite_loss_and_step_are_null(mlpcli):
    settings = ("network.objective=linear_quadratic", "network.initial_scale=1e160", "network.dtype=float64")
    document = mlpcli(*FEW, *(word for each in settings for word in ("--set", each)), "--json").document
    assert document["step"]["loss_before"] is None
    assert document["step"]["promised"] is None


def test_underflow_is_shown_without_a_warning(mlpcli):
    found = mlpcli(*FEW, "--set", "network.initial_scale=1e38")
    assert (found.status, found.err, "nan" in found.out) == (0, "", False)


def test_underflow_of_given_logits_has_no_warning(mlpcli):
    found = mlpcli("--z", "1000,0", "--label", 1)
    assert (found.status, found.err, "undefined" in found.out) == (0, "", True)
