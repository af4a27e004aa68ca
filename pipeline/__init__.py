"""From raw DICOM to an auditable report: transfer learning for medical images, one verb per stage."""
