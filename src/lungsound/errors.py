"""Every error that a user can cause, as one tree.

LungsoundError
|-- DataError               recordings, annotations, corpora
|   |-- AudioError          a sound file that cannot be used
|   |-- AnnotationError     an annotation that cannot be understood
|   `-- CorpusError         a folder that is not the corpus it should be
|-- SettingsError           a recipe or an option that makes no sense
|-- WeightsError            a checkpoint or pretrained weights that do not fit
`-- FetchError              something that could not be downloaded

Each message is one line that says what was given, what is needed and what to do. The command line
prints it and ends with exit code 2; any other exception is our mistake and ends with exit code 1.
"""


class LungsoundError(Exception):
    """Base of all errors that a user can cause and mend."""

    exit_code = 2


class DataError(LungsoundError):
    """Something about recordings, annotations or a corpus."""


class AudioError(DataError):
    """A sound file that cannot be read or used."""


class AnnotationError(DataError):
    """An annotation file that cannot be understood."""


class CorpusError(DataError):
    """A folder that is not the corpus it should be."""


class SettingsError(LungsoundError):
    """A recipe, an override or an option that makes no sense."""


class WeightsError(LungsoundError):
    """A checkpoint or pretrained weights that cannot be read or do not fit."""


class FetchError(LungsoundError):
    """Something that could not be downloaded or verified."""
