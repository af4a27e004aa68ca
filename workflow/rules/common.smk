# The study that was asked for, checked before any work, and the few names that the rules share.
import os
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

from pipeline.config import DEFAULT_FILE, load
from pipeline.core.errors import PipelineError
from pipeline.core.provenance import fingerprint, tree_state
from pipeline.prerequisites import PHANTOM_FOLDER, choose_file, require

min_version("9.19")

try:
    # The files and --config of the command line are read here and not through Snakemake's `config`, which would
    # merge a study with the built-in one and knows no line numbers.
    CONFIG = load(
        choose_file(workflow.overwrite_configfiles, Path(workflow.basedir) / DEFAULT_FILE),
        workflow.config_settings.config,
    )
    if workflow.is_main_process:
        require(CONFIG)
except PipelineError as error:
    raise WorkflowError(str(error)) from None

RESULTS = f"results/{CONFIG.study}"
FOLDS = range(CONFIG.split.folds)
# The secret key is no declared output: Snakemake would delete it before the job that makes it.
KEY = CONFIG.deidentify.key_file or f"{RESULTS}/restricted/key"
CLASSES = list(CONFIG.label.outputs)
# A file of weights that the study names: when it changes, what was made from it is made anew. If it is missing, `require`
# has said so.
WEIGHTS = CONFIG.train.weights.file or []
# Processes that train one network together; with `auto` a profile may give a job more GPUs (--set-resources train:gpu=4).
DEVICES = 1 if CONFIG.train.devices == "auto" else CONFIG.train.devices

# Jobs use the interpreter that runs Snakemake, whether or not its environment is activated.
os.environ.update(PATH=os.pathsep.join([os.path.dirname(sys.executable), *os.get_exec_path()]))
