"""Reason codes: every exclusion and remark of the pipeline, what it means, and what to do about it."""

from typing import NamedTuple


class Reason(NamedTuple):
    """What a code means, and the remedy, in words for the report."""

    meaning: str
    remedy: str


REASONS: dict[str, Reason] = {
    # ingest: files
    "EMPTY_FILE": Reason("The file has no bytes.", "Copy it again from the archive."),
    "NOT_A_REGULAR_FILE": Reason("A link, pipe, socket or device; it was not opened.", "Copy the file itself."),
    "NOT_DICOM": Reason("The file is not DICOM.", "Nothing, if it was not meant to be an image."),
    "UNREADABLE_FILE": Reason("The file could not be opened.", "Check its permissions and the storage."),
    "UNREADABLE_HEADER": Reason("The DICOM header is damaged.", "Export it again from the archive."),
    "TRUNCATED_FILE": Reason("The file ends before its data do.", "Copy it again from the archive."),
    "MISSING_IDENTITY": Reason(
        "Patient ID or a Study, Series or SOP Instance UID is missing, or cannot be read in its character set.",
        "Export it again from the archive.",
    ),
    "NOT_AN_IMAGE": Reason(
        "A DICOM object without images (report, presentation state, structure set, directory).",
        "Nothing; such objects are counted and left out.",
    ),
    "UNSUPPORTED_TRANSFER_SYNTAX": Reason(
        "No decoder is at hand for the file's compression.", "Decompress the file, or install the decoder."
    ),
    "UNSUPPORTED_IMAGE": Reason(
        "The pixel format is not supported (a film of several frames, floating point, or an unusual bit depth).",
        "Export single images, or slices as CT, MR or PET objects.",
    ),
    "BAD_DIMENSIONS": Reason("Rows, columns or frames are zero or beyond the limit.", "Check the file's source."),
    "BAD_GEOMETRY": Reason(
        "Position, orientation or spacing of a slice is missing or not a number.", "Export it again."
    ),
    "UNWANTED_MODALITY": Reason("The modality is not among those of the configuration.", "Nothing, if meant so."),
    "DUPLICATE_FILE": Reason("The same instance again, byte for byte; the first is kept.", "Nothing."),
    "CONFLICTING_INSTANCES": Reason(
        "Several files with one SOP Instance UID but different bytes; none is used.",
        "Find out which one is right and remove the others.",
    ),
    "INCONSISTENT_IDENTITY": Reason(
        "A study stands under several patients, or a series under several studies or modalities; none of it is used.",
        "Correct the patient and study of these files.",
    ),
    "LOCALIZER": Reason("A survey image for planning, no slice of the volume.", "Nothing."),
    "MOSAIC_IMAGE": Reason(
        "Many slices laid out in one image (mosaic), and the file does not say where they belong.",
        "Export the series as enhanced multi-frame, or as single slices.",
    ),
    "SECONDARY_IMAGE": Reason(
        "A slice computed from others (reformatted, projected, subtracted), by its Image Type.",
        "Nothing, if the original slices are there.",
    ),
    "SECONDARY_CAPTURE": Reason(
        "A screen image (dose sheet, summary, three-dimensional view) filed under a modality.", "Nothing."
    ),
    "UNWANTED_SERIES": Reason(
        "The series is outside the selection of the configuration (`ingest.select`).", "Nothing, if meant so."
    ),
    "SERIES_INCOMPLETE": Reason(
        "Another slice of this series is damaged or missing; without it the volume would be incomplete.",
        "Export the whole series again.",
    ),
    "SHARED_PATIENT_ID": Reason(
        "One Patient ID stands with several issuers, birth dates or sexes.",
        "Find out whether these are several people; if it is one, set `ingest.on_shared_patient_id: note`.",
    ),
    # deidentify: instances
    "BURNED_IN_ANNOTATION": Reason(
        "The file says that text is burned into the pixels, and no rule vouches for it; it is kept out.",
        "Give a rule for such images (`deidentify.pixel_rules`, docs/burned-in-text.md).",
    ),
    "PIXELS_MAY_IDENTIFY": Reason(
        "Pixels that often carry names (ultrasound, secondary capture, photograph), and no rule that covers them.",
        "Check the images and give a rule for them (`deidentify.pixel_rules`, docs/burned-in-text.md).",
    ),
    "SOUND_RECORDING": Reason("A recording of sound: a voice tells who speaks.", "Nothing; no rule covers voices."),
    "BURNED_IN_TEXT_SUSPECTED": Reason(
        "Something in the pixels looks like lines of text; kept out if it is longer than "
        "`deidentify.tolerated_characters`, else noted.",
        "Look at the image; give a rule for such images (`deidentify.pixel_rules`), or, if the text names nobody, "
        "tolerate more.",
    ),
    "PIXELS_BLANKED": Reason(
        "A rule of the configuration overwrote some pixels (`deidentify.pixel_rules`).",
        "Nothing; `blanked.tsv` names the rectangles.",
    ),
    "DEIDENTIFICATION_FAILED": Reason("The file could not be rewritten safely; it is kept out.", "Export it again."),
    # check_quality: series
    "INSTANCES_MISSING": Reason("The slices do not form an even, complete stack.", "Export the whole series."),
    "DUPLICATE_POSITION": Reason("Two slices lie at one position.", "Separate the acquisitions."),
    "MIXED_SERIES": Reason("Slices of one series differ in size, orientation or spacing.", "Separate the series."),
    "TOO_FEW_SLICES": Reason("The series has fewer slices than the configuration asks for.", "Nothing, if meant so."),
    "TILTED_GANTRY": Reason(
        "The slices are sheared against their normal (gantry tilt); the volume's affine says so.",
        "Nothing, unless a later step of yours cannot read sheared affines.",
    ),
    "LOW_CONTRAST": Reason("The pixel values hardly vary.", "Look at the image."),
    "SATURATED": Reason("Many pixels stand at the lowest or highest value.", "Look at the image."),
    "SMALL_MATRIX": Reason("The image has fewer pixels than the configuration asks for.", "Look at the image."),
    "UNDECODABLE_PIXELS": Reason("The pixel data could not be decoded.", "Export it again from the archive."),
    "UNEVEN_PIXELS": Reason(
        "The header says that pixels are more than four times as long as wide; the picture's shape is not certain.",
        "Correct Pixel Spacing or Pixel Aspect Ratio.",
    ),
    "CHECK_FAILED": Reason("A quality check could not be completed; the series is left out.", "Look at the image."),
    "COLOUR_TO_GREY": Reason(
        "The picture was in colour; its luminance (ITU-R BT.601) was used.", "Nothing, if colour does not matter."
    ),
    # preprocess: series, images
    "PREPROCESSING_FAILED": Reason("The image could not be brought to its standard form.", "Look at the image."),
    "GEOMETRY_PROVED": Reason(
        "The file written holds every slice where its header puts it: corners and sampled pixels were compared.",
        "Nothing.",
    ),
    "GEOMETRY_NOT_PROVED": Reason(
        "The volume does not hold its slices where their headers put them; it is left out.",
        "Please report it: this should not happen.",
    ),
    "VOLUME_CUT_OFF": Reason(
        "Part of the volume (its share is the value) lies beyond the grid for learning and is not seen by the network.",
        "Nothing, if only surroundings are cut off; else raise preprocess.volume.slices or its spacings, or leave "
        "these out.",
    ),
    "VOLUME_OTHER_PLANE": Reason(
        "The slices were acquired in another plane than preprocess.volume.plane; those for learning are interpolated.",
        "Nothing, if voxels are about as deep as wide; else set the plane in which most series were acquired.",
    ),
    # label: images, labels, patients
    "NO_LABEL": Reason("The table has no label for the image.", "Add a row, if the image belongs to the study."),
    "CONTRADICTORY_LABELS": Reason("The table gives several labels for one key.", "Correct the table."),
    "UNKNOWN_LABEL": Reason("The label is none of the configured classes.", "Correct the table or the classes."),
    "LABEL_WITHOUT_IMAGE": Reason("The table names somebody or something of whom no image is at hand.", "Nothing."),
    "DUPLICATE_LABEL_ROW": Reason("The table has the same row more than once.", "Nothing."),
    "PATIENT_HAS_SEVERAL_CLASSES": Reason("Images of one patient carry different labels; all are kept.", "Nothing."),
    # split: images, patients
    "SAME_IMAGE_TWICE": Reason("The same pixels stand twice for one patient; the first is kept.", "Nothing."),
    "SAME_IMAGE_TWO_PATIENTS": Reason(
        "The same pixels stand under two patients; one is kept, and the patients stay on one side of every split.",
        "Find out whether the two are one person.",
    ),
    "SAME_IMAGE_DIFFERENT_LABELS": Reason(
        "The same pixels carry different labels; all of them are left out.", "Correct the labels."
    ),
    "SIMILAR_IMAGE_TWO_PATIENTS": Reason(
        "Almost the same image stands under two patients; the patients are kept on one side of every split.",
        "Find out whether the two are one person.",
    ),
}
