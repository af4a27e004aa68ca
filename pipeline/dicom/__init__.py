"""DICOM files: headers, series, pixels, confidentiality, pseudonyms."""
