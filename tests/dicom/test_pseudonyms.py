import os
import pickle
import re
import stat
import threading
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import PrivacyError
from pipeline.dicom.deidentification.dates import shifted_date
from pipeline.dicom.deidentification.pseudonyms import Pseudonyms, close_to_others, read_or_create_key

KEY = bytes(range(32))
OTHER = bytes(range(1, 33))
identifiers = st.text(min_size=1, max_size=80)
keys = st.binary(min_size=32, max_size=32)


def bare(text):
    return text.strip(" \0\t\r\n")


@given(keys, identifiers, identifiers)
def test_uids_are_injective_and_valid(key, first, second):
    names = Pseudonyms(key)
    assert (names.uid(first) == names.uid(second)) == (bare(first) == bare(second))
    number = int(re.fullmatch(r"2\.25\.([1-9][0-9]*)", names.uid(first)).group(1))
    assert number < 2**128
    assert len(names.uid(first)) <= 64
    assert (number >> 76) & 0xF == 8  # UUID version 8
    assert (number >> 62) & 0x3 == 2  # variant of RFC 9562


@given(keys, identifiers, identifiers)
def test_patients_are_stable_and_apart(key, first, second):
    names, again = Pseudonyms(key), Pseudonyms(bytes(key))
    assert names.patient(first) == again.patient(first)
    assert (names.patient(first) == names.patient(second)) == (bare(first) == bare(second))
    assert re.fullmatch(r"P[A-Z2-7]{12}", names.patient(first))


@given(identifiers)
def test_another_key_gives_other_names(identifier):
    one, two = Pseudonyms(KEY), Pseudonyms(OTHER)
    assert one.patient(identifier) != two.patient(identifier)
    assert one.uid(identifier) != two.uid(identifier)


@pytest.mark.parametrize("identifier", ["4711", "1.2.3", "General Hospital"])
def test_purposes_share_nothing(identifier):
    names = Pseudonyms(KEY)
    file, site = names.file(identifier), names.site(identifier)
    assert site.removeprefix("site-") != file.removeprefix("file-")[:6] or not site
    digits = int(names.uid(identifier).removeprefix("2.25."))
    assert f"{digits:x}"[:6] != file.removeprefix("file-")[:6]


def test_padding_does_not_count():
    names = Pseudonyms(KEY)
    assert names.patient("4711") == names.patient(" 4711 ") == names.patient("4711\0")
    assert names.uid("1.2.3") == names.uid("1.2.3\0")
    assert names.date_shift_days("4711", 3650) == names.date_shift_days("4711 ", 3650)


def test_sites_ignore_capitals_and_repeated_blanks():
    names = Pseudonyms(KEY)
    assert names.site("St. Mary  Hospital") == names.site("ST. MARY HOSPITAL ")
    assert names.site("St. Mary Hospital") != names.site("St. John Hospital")
    assert names.site("  ") == ""


def test_known_values_never_change():
    """Pseudonyms of earlier runs must stay joinable: any change of the derivation shows here."""
    names = Pseudonyms(KEY)
    assert names.patient("4711") == "PIMOEVWEDIP3M"
    assert names.date_shift_days("4711", 3650) == 1555
    assert names.uid("1.2.3") == "2.25.197235472747327722479636894577881937495"
    assert names.site("General") == "site-73f2e9"


@pytest.mark.parametrize("column", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
def test_label_keys_are_the_pseudonyms_of_the_images(column):
    names = Pseudonyms(KEY)
    assert names.label_key(column, "1.2.3") == names.uid("1.2.3")
    assert names.label_key("PatientID", "1.2.3") == names.patient("1.2.3")


@given(identifiers, st.integers(30, 36_500))
def test_shifts_lie_in_their_range(identifier, largest):
    assert 1 <= Pseudonyms(KEY).date_shift_days(identifier, largest) <= largest


def test_shifts_use_the_whole_range():
    names = Pseudonyms(KEY)
    found = {names.date_shift_days(str(number), 30) for number in range(1000)}
    assert found == set(range(1, 31))


@given(identifiers, st.dates(date(1900, 1, 1)), st.dates(date(1900, 1, 1)))
def test_intervals_of_a_patient_are_kept_exactly(identifier, first, second):
    shift = timedelta(days=Pseudonyms(KEY).date_shift_days(identifier, 36_500))
    moved = [date.fromisoformat(shifted_date(f"{day:%Y%m%d}".zfill(8), shift)) for day in (first, second)]
    assert moved[1] - moved[0] == second - first
    assert moved[0] < first


def test_file_names_of_any_bytes_have_a_pseudonym():
    name = os.fsdecode(b"M\xfcller.dcm")
    assert re.fullmatch(r"file-[0-9a-f]{16}", Pseudonyms(KEY).file(name))


def test_the_key_is_in_no_representation():
    names = Pseudonyms(KEY)
    assert KEY.hex() not in repr(names)
    assert repr(KEY)[2:20] not in repr(names)
    assert pickle.loads(pickle.dumps(names)) == names  # travels to worker processes


def test_a_key_of_another_length_is_refused():
    with pytest.raises(PrivacyError):
        Pseudonyms(b"short")


def test_the_key_is_made_once_and_closed_to_others(tmp_path):
    path = tmp_path / "restricted" / "key"
    first = read_or_create_key(path)
    assert read_or_create_key(path) == first
    assert len(first) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["key"]
    assert read_or_create_key(tmp_path / "other" / "key") != first


def test_makers_at_the_same_time_end_with_one_key(tmp_path):
    path = tmp_path / "key"
    found = []
    threads = [threading.Thread(target=lambda: found.append(read_or_create_key(path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_that_others_can_read_is_refused(tmp_path, mode):
    path = tmp_path / "key"
    read_or_create_key(path)
    path.chmod(mode)
    with pytest.raises(PrivacyError, match="chmod 600"):
        read_or_create_key(path)


@pytest.mark.parametrize("text", ["", "00" * 31, "00" * 33, "no hexadecimal digits at all", "\xff" * 64])
def test_a_file_that_is_no_key_is_refused_without_quoting_it(tmp_path, text):
    path = tmp_path / "key"
    path.write_bytes(text.encode("latin-1"))
    path.chmod(0o600)
    with pytest.raises(PrivacyError) as caught:
        read_or_create_key(path)
    assert not text or text not in str(caught.value)


def test_closing_a_folder_takes_rights_away(tmp_path):
    folder = tmp_path / "restricted"
    folder.mkdir(mode=0o755)
    close_to_others(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_key_where_nothing_can_be_looked_up_is_an_error_and_no_bug(tmp_path):
    nowhere = tmp_path / ("x" * 300) / "key"  # a name too long for any folder: the system refuses to look it up
    with pytest.raises(PrivacyError, match="cannot read the key"):
        read_or_create_key(nowhere)
