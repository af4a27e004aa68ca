"""Canaries: recognisable tokens in every place where a DICOM file may name somebody.

A token is the stem, a word for the place and a number. If any of them turns up in an output, a log or an error
message, something identifying would have as well.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import Literal, NamedTuple

from pydicom.dataset import Dataset

from pipeline.phantom.manifest import Canary

STEM = "CANARY"
PRIVATE_GROUP = 0x0011
_PREAMBLE_LENGTH = 128
Owner = Literal["patient", "study", "site"]


class Place(NamedTuple):
    """One element, the word of its token, whose number it bears, and the text around the token."""

    keyword: str
    word: str
    owner: Owner
    text: str = "{}"


# Attributes of PS3.15 table E.1-1 that name people, places, machines or tell about them. SH holds 16 characters.
PLACES: tuple[Place, ...] = (
    Place("PatientName", "NAME", "patient", "{}^Zoë^^^"),
    Place("PatientID", "PID", "patient"),
    Place("IssuerOfPatientID", "ISSUER", "site"),
    Place("OtherPatientIDs", "OTHERID", "patient"),
    Place("OtherPatientNames", "OTHERNAME", "patient", "{}^Alias"),
    Place("PatientBirthName", "BIRTHNAME", "patient", "{}^Born"),
    Place("PatientMotherBirthName", "MOTHER", "patient", "{}^Mother"),
    Place("PatientAddress", "ADDRESS", "patient", "1 {} Street"),
    Place("PatientTelephoneNumbers", "TEL", "patient"),
    Place("MilitaryRank", "RANK", "patient"),
    Place("EthnicGroup", "ETH", "patient"),
    Place("Occupation", "OCC", "patient"),
    Place("ResponsiblePerson", "RESPONSIBLE", "patient", "{}^Guardian"),
    Place("ResponsibleOrganization", "ORGANISATION", "patient"),
    Place("RegionOfResidence", "REGION", "patient"),
    Place("MedicalRecordLocator", "RECORD", "patient"),
    Place("PatientComments", "COMMENT", "patient", "Wife of {} called."),
    Place("AdditionalPatientHistory", "HISTORY", "patient", "Known to Dr {} since 1998."),
    Place("AccessionNumber", "ACC", "study"),
    Place("StudyID", "STID", "study"),
    Place("StudyDescription", "STUDYTEXT", "study", "Chest of {} for insurance"),
    Place("AdmissionID", "ADMISSION", "study"),
    Place("AdmittingDiagnosesDescription", "DIAGNOSIS", "study"),
    Place("ReferringPhysicianName", "REFERRER", "study", "{}^^^Dr"),
    Place("ReferringPhysicianAddress", "REFADDRESS", "study", "2 {} Road"),
    Place("ReferringPhysicianTelephoneNumbers", "RTEL", "study"),
    Place("PhysiciansOfRecord", "PHYSICIAN", "study", "{}^^^Dr"),
    Place("NameOfPhysiciansReadingStudy", "READER", "study", "{}^^^Dr"),
    Place("RequestingPhysician", "REQUESTER", "study", "{}^^^Dr"),
    Place("RequestingService", "SERVICE", "study"),
    Place("RequestedProcedureDescription", "PROCEDURE", "study"),
    Place("ReasonForTheRequestedProcedure", "REASON", "study"),
    Place("PerformingPhysicianName", "PERFORMER", "study", "{}^^^Dr"),
    Place("OperatorsName", "OPERATOR", "study", "{}^Op"),
    Place("SeriesDescription", "SERIESTEXT", "study", "PA, {} standing"),
    Place("ProtocolName", "PROTOCOL", "study"),
    Place("PerformedProcedureStepID", "STEP", "study"),
    Place("PerformedProcedureStepDescription", "STEPTEXT", "study"),
    Place("ImageComments", "IMAGETEXT", "study", "Compare with the film of Mrs {}."),
    Place("DerivationDescription", "DERIVATION", "study"),
    Place("InstitutionName", "HOSPITAL", "site", "{} Hospital"),
    Place("InstitutionAddress", "HOSPITALADDRESS", "site", "3 {} Square"),
    Place("InstitutionalDepartmentName", "DEPARTMENT", "site"),
    Place("StationName", "STN", "site"),
    Place("DeviceSerialNumber", "SERIAL", "site"),
    Place("DetectorID", "DET", "site"),
    Place("PerformedStationAETitle", "AET", "site"),
)


class Numbers(NamedTuple):
    """Which patient, study and site a file belongs to."""

    patient: int
    study: int
    site: int


class Aviary:
    """Plants tokens and remembers where each was put."""

    def __init__(self) -> None:
        self._places: dict[str, set[str]] = defaultdict(set)
        self.uids: set[str] = set()  # of devices and frames of reference; those of objects stand with their files

    def token(self, word: str, number: int, place: str) -> str:
        """Make the token of a word and a number, noting its place."""
        token = f"{STEM}{word}{number:06d}"
        self._places[token].add(place)
        return token

    def plant(self, dataset: Dataset, numbers: Numbers) -> None:
        """Put tokens into the elements of `PLACES`, into nested items and into private elements."""
        for place in PLACES:
            token = self.token(place.word, getattr(numbers, place.owner), place.keyword)
            setattr(dataset, place.keyword, place.text.format(token))
        dataset.OtherPatientIDsSequence = [self._other_id(numbers)]
        dataset.RequestAttributesSequence = [self._request(numbers)]
        self._plant_private(dataset, numbers, "private")

    def preamble(self, numbers: Numbers) -> bytes:
        """Make a file preamble with a token in it (PS3.10 7.1 allows any content)."""
        return self.token("PREAMBLE", numbers.study, "preamble").encode().ljust(_PREAMBLE_LENGTH, b"\0")

    def canaries(self) -> Iterator[Canary]:
        """Give everything planted, in order of the tokens."""
        for token, places in sorted(self._places.items()):
            yield Canary(token=token, places=tuple(sorted(places)))

    def _other_id(self, numbers: Numbers) -> Dataset:
        item = Dataset()
        item.PatientID = self.token("NESTEDID", numbers.patient, "OtherPatientIDsSequence/PatientID")
        item.TypeOfPatientID = "TEXT"
        return item

    def _request(self, numbers: Numbers) -> Dataset:
        item = Dataset()
        prefix = "RequestAttributesSequence/"
        item.RequestedProcedureID = self.token("RQ", numbers.study, f"{prefix}RequestedProcedureID")
        item.RequestedProcedureDescription = self.token(
            "NESTEDTEXT", numbers.study, f"{prefix}RequestedProcedureDescription"
        )
        item.ScheduledProcedureStepID = self.token("SPS", numbers.study, f"{prefix}ScheduledProcedureStepID")
        code = Dataset()
        code.CodeValue = "1"
        code.CodingSchemeDesignator = "99PHANTOM"
        code.CodeMeaning = self.token("MEANING", numbers.study, f"{prefix}ScheduledProtocolCodeSequence/CodeMeaning")
        item.ScheduledProtocolCodeSequence = [code]
        self._plant_private(item, numbers, f"{prefix}private")
        return item

    def _plant_private(self, dataset: Dataset, numbers: Numbers, place: str) -> None:
        creator = self.token("CREATOR", numbers.site, f"{place} creator")
        block = dataset.private_block(PRIVATE_GROUP, creator, create=True)
        block.add_new(0x01, "LO", self.token("PRIVATE", numbers.study, f"{place} LO"))
        raw = self.token("PRIVATEBYTES", numbers.patient, f"{place} OB").encode()
        block.add_new(0x02, "OB", raw + b"\0" * (len(raw) % 2))
        item = Dataset()
        item.PatientName = self.token("PRIVATENAME", numbers.patient, f"{place} SQ/PatientName")
        block.add_new(0x03, "SQ", [item])
