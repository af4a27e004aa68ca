import pydicom
import pytest

from pipeline.dicom.decoding.pixel_format import pixel_element
from pipeline.dicom.deidentification.encoding import encoded_file, encoded_header, encoded_meta
from pipeline.dicom.reading.files import FileFault, opened, read_elements
from pipeline.dicom.reading.quiet import quiet
from tests.dicom.samples import LIMIT, SYNTAXES, ct, with_pixels, write


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_pydicom_reads_what_is_encoded(tmp_path, syntax):
    """Our own framing of the pixel data, held against an independent reader."""
    path = write(tmp_path / "a.dcm", with_pixels(ct(SliceLocation="1.5")), syntax=syntax)
    before = pydicom.dcmread(path)
    with quiet(), opened(path, LIMIT) as source:
        read_elements(source, ())
        place = pixel_element(source)
        source.body.seek(place.start)
        pixels = source.body.read(place.length)
    plain = pydicom.dcmread(path, stop_before_pixels=True)
    header = encoded_header(plain, SYNTAXES[syntax])
    (tmp_path / "b.dcm").write_bytes(b"".join(encoded_file(header, SYNTAXES[syntax], place, pixels)))
    after = pydicom.dcmread(tmp_path / "b.dcm")
    assert after == before
    assert after.file_meta.TransferSyntaxUID == SYNTAXES[syntax]
    assert (after.pixel_array == before.pixel_array).all()
    assert (tmp_path / "b.dcm").stat().st_size % 2 == 0


@pytest.mark.parametrize(
    ("sop_class", "syntax"), [("", "1.2.840.10008.1.2.1"), ("1.2.840.10008.5.1.4.1.1.2", "1.2.3.4.5")]
)
def test_no_file_without_a_class_or_in_an_unknown_syntax(sop_class, syntax):
    with pytest.raises(FileFault):
        encoded_meta(sop_class, "2.25.1", syntax)
