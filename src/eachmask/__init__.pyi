from eachmask import backbones as backbones
from eachmask import batch as batch
from eachmask import data as data
from eachmask import draw as draw
from eachmask import evaluation as evaluation
from eachmask import inference as inference
from eachmask import metrics as metrics
from eachmask import models as models
from eachmask import ops as ops
from eachmask import recipes as recipes
from eachmask import structures as structures
from eachmask import tasks as tasks
from eachmask import training as training
from eachmask import weights as weights
from eachmask.evaluation.measure import evaluate as evaluate
from eachmask.exporting.export import export as export
from eachmask.inference.load import load as load
from eachmask.inference.predictor import Predictor as Predictor
from eachmask.recipes.train import train as train
from eachmask.structures import RLE as RLE
from eachmask.structures import Category as Category
from eachmask.structures import DecodeOptions as DecodeOptions
from eachmask.structures import Instances as Instances
from eachmask.structures import Masks as Masks
from eachmask.structures import Preprocess as Preprocess
from eachmask.structures import UserError as UserError

__version__: str
