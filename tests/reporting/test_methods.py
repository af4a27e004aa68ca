"""Methods in words: the settings stand in the sentences, and only those that apply."""

from pipeline.reporting import methods


def augmentation(**changes):
    values = {
        "rotation_degrees": 7.0, "translation": 0.05, "scale": 0.1, "flip": False, "contrast": 0.2,
        "brightness": 0.1, "noise": 0.025,
    }  # fmt: skip
    return methods.augmentation(**{**values, **changes}).text


def test_augmentation_names_what_is_done():
    text = augmentation()
    assert "±7°" in text
    assert "2.5\N{NO-BREAK SPACE}%" in text
    assert "not mirrored" in text
    assert "not mirrored" not in augmentation(flip=True)
    assert "rotated" not in augmentation(rotation_degrees=0.0)


def test_no_augmentation_is_said():
    nothing = dict.fromkeys(("rotation_degrees", "translation", "scale", "contrast", "brightness", "noise"), 0.0)
    assert "were not varied" in augmentation(**nothing)


def test_the_loss_names_its_parts():
    assert methods.loss(0.0, balance_classes=False) == "Cross-entropy"
    assert "smoothing 0.05" in methods.loss(0.05, balance_classes=True)
    assert "inverse frequency" in methods.loss(0.0, balance_classes=True)
    assert methods.loss(0.0, balance_classes=False, focal_gamma=2.0) == "Focal loss with an exponent of 2"


def test_random_weights_are_no_transfer():
    strategies = [("full", "all layers were trained")]
    assert "no transfer" in methods.network("resnet18", "random", strategies).text
    assert "no transfer" not in methods.network("resnet18", "imagenet", strategies).text


def test_the_road_of_volumes_is_told():
    told = {
        (road, weights): methods.network(
            "resnet18", weights, [("full", "x")], methods.VolumesSeen(road, 8, "mean")
        ).text
        for road in ("slices_as_channels", "attention", "inflation")
        for weights in ("imagenet", "medicalnet", "random")
    }
    assert "8 groups of three neighbouring slices" in told["slices_as_channels", "imagenet"]
    assert "two-dimensional" in told["attention", "imagenet"]
    assert "attention learned" in told["attention", "imagenet"]
    assert "three-dimensional" in told["inflation", "random"]
    assert "all slices of its depth evenly" in told["inflation", "imagenet"]
    assert "standard deviation 1" in told["inflation", "medicalnet"]
    assert "depth" not in told["inflation", "medicalnet"] + told["inflation", "random"]


def test_attention_is_said_to_be_learned_only_where_it_was():
    def told(fixed, *, is_learned):
        seen = methods.VolumesSeen("attention", 8, "centre", fixed, is_learned=is_learned)
        return methods.network("resnet18", "imagenet", [("probe", "x")], seen).text

    assert "attention learned" not in told(("probe",), is_learned=False)
    assert "equal weights, as no attention was trained, so that" in told(("probe",), is_learned=False)
    assert "(in the strategy “probe” they stayed equal), so that" in told(("probe",), is_learned=True)
    assert "stayed equal" not in told((), is_learned=True)


def test_the_grid_of_volumes_is_told():
    text = methods.volumes_prepared(32, 128, "axial", (5.0, None), scaling="a window", stored_as="uint8").text
    assert "32 axial slices, 5 mm apart, of 128 × 128 pixels" in text
    assert "whole slice to fit" in text
    assert "beyond the grid was cut off" in text
    whole = methods.volumes_prepared(32, 128, "axial", (None, None), scaling="a window", stored_as="uint8").text
    assert "cut off" not in whole


def test_whole_sites_are_told_from_patients():
    assert "by whole sites" in methods.patients_divided(4, 0.2, "site", 4).text
    assert "4 folds by patients" in methods.patients_divided(4, 0.2, "patient", 4).text


def test_policies_on_labels_are_told():
    text = methods.labels_matched("PatientID", ("a", "b"), "exclude", "error").text
    assert "Contradictory labels led to the exclusion" in text
    assert "classes other than these would have stopped" in text
    assert "positive class is b" in text
    assert "positive class" not in methods.labels_matched("PatientID", ("a", "b", "c"), "error", "error").text


def test_scalings_have_names():
    assert methods.percentile_scaling(0.5, 99.5) == "percentiles 0.5 and 99.5 of its own values"
    assert methods.window_scaling(-600, 1500) == "a fixed window (centre −600, width 1500)"


def test_ways_of_training_are_named_only_where_they_were_used():
    plain = {
        "loss": "Cross-entropy",
        "epochs": 20,
        "patience": 6,
        "batch_size": 32,
        "learning_rate": 3e-5,
        "weight_decay": 0.01,
        "warmup_fraction": 0.1,
    }
    text = methods.optimisation(**plain).text
    assert not any(word in text for word in ("averaged", "block", "seeds"))
    text = methods.optimisation(**plain, block_rate_factor=0.8, ema_decay=0.99, networks=3, is_joined=True).text
    assert "features of all of them joined" in text
    assert "0.8 times the learning rate" in text
    assert "decay 0.99" in text
    assert "3 networks that differ in their seeds" in text
    assert "predicted as they are and in 4 variants" in augmentation(views=4)


def test_a_study_of_probes_alone_claims_no_training():
    plain = {"loss": "Cross-entropy", "epochs": 20, "patience": 6, "batch_size": 32, "learning_rate": 3e-5}
    plain |= {"weight_decay": 0.01, "warmup_fraction": 0.1}
    text = methods.optimisation(**plain, fixed=("probe",), is_learned=False).text
    assert not any(word in text for word in ("AdamW", "20 epochs", "learning rate"))
    assert "rotated" not in augmentation(fixed=("probe",), is_learned=False)
    text = methods.optimisation(**plain, fixed=("probe",)).text
    assert "AdamW" in text
    assert "None of this concerns the strategy “probe”" in text
    assert "For the strategy “probe” they were taken as they are" in augmentation(fixed=("probe",))
    assert "probe" not in methods.optimisation(**plain).text + augmentation()


def test_dates_ages_and_pixels_are_told_as_they_were_treated():
    moved = ("retain_longitudinal_modified_dates", "retain_patient_characteristics")
    text = methods.identifiers_removed(3650, moved).text
    assert "moved back" in text
    assert "recorded as 90" in text
    assert "more than 8 characters" in text
    assert "unless" not in text
    text = methods.identifiers_removed(3650, ("retain_longitudinal_full_dates",), 2, "note", 8).text
    assert "kept as they were" in text
    assert "90" not in text
    assert "unless one of 2 rules for pixels covered them" in text
    assert "characters" not in text
    assert "Dates and times were removed" in methods.identifiers_removed(3650, ()).text


def test_a_selection_and_shared_ids_are_told():
    plain = methods.images_found(("CR", "DX"), 512).text
    assert "was left out as well" in plain
    assert "selection" not in plain
    text = methods.images_found(("CT",), 512, "note", is_selected=True).text
    assert "kept and remarked upon" in text
    assert "“ingest.select”" in text
