"""UCR archive: MLP, FCN and ResNet on univariate time series.

Wang, Yan & Oates, "Time Series Classification from Scratch with Deep Neural Networks" (IJCNN 2017), with the recipe and
the results of Ismail Fawaz et al., "Deep learning for time series classification: a review" (DMKD 2019), whose code
(hfawaz/dl-4-tsc) publishes five runs of each network on the 128 sets of the 2018 archive. The weights of the epoch with
the least training loss are the ones tested.

    python -m experiments.ucr --workdir=/tmp/ucr                               the table, three seeds a row
    python -m experiments.ucr --workdir=/tmp/gun --variant=GunPoint,resnet     DATASET,ARCH: mlp, fcn or resnet

Any set of the archive that config.data_dir holds can be named. The batch is a tenth of the training set, at most 16 (64
for the ResNet); for sets that are not in `PUBLISHED` it is that maximum, so a set of fewer than 160 (640) series wants
--config.batch_size. An epoch is rounded to whole steps, and batches run on over its end, where Keras makes a short one.
"""
from bigjax import cli, models
from bigjax.data.datasets import open_data
from bigjax.data.loaders.named import UCR
from bigjax.experiment import Data, Evaluator, Experiment, base_config, choose, choose_pair, published
from bigjax.models import timeseries
from bigjax.predict import interfaces
from bigjax.tasks import classification

# The networks: the model, the largest batch, the epochs, and the optimizer with the plateau that
# lowers its rate. Keras gives eps = 1e-7 and Adadelta's rate of 1, and counts a loss as better from 1e-4 on.
PLATEAU = dict(name='plateau', factor=0.5, rtol=0.0, atol=1e-4)
ADAM = dict(name='adam', lr=1e-3, eps=1e-7, schedule=dict(PLATEAU, patience='50 epochs', min_lr=1e-4))
ADADELTA = dict(name='adadelta', lr=1.0, rho=0.95, eps=1e-7, schedule=dict(PLATEAU, patience='200 epochs', min_lr=0.1))
NETWORKS = {
    'mlp': (models.spec('mlp', 'ucr'), 16, 5000, ADADELTA),
    'fcn': (models.spec('timeseries.FCN', 'fcn'), 16, 2000, ADAM),
    'resnet': (models.spec('timeseries.ResNet1D', 'resnet'), 64, 1500, ADAM),
}

# Test accuracy, mean and standard deviation of five runs: results/results-ucr-128.csv of hfawaz/dl-4-tsc.
PUBLISHED = {  # mlp, fcn, resnet
    'ArrowHead': ((0.7840, 0.0142), (0.8434, 0.0112), (0.8377, 0.0213)),
    'BME': ((0.9053, 0.0129), (0.8360, 0.0053), (0.9987, 0.0027)),
    'CBF': ((0.8691, 0.0043), (0.9938, 0.0009), (0.9958, 0.0018)),
    'Chinatown': ((0.8717, 0.0171), (0.9796, 0.0000), (0.9784, 0.0014)),
    'Coffee': ((0.9929, 0.0143), (1.0000, 0.0000), (1.0000, 0.0000)),
    'ECG200': ((0.9140, 0.0080), (0.8880, 0.0075), (0.8740, 0.0162)),
    'ECG5000': ((0.9297, 0.0016), (0.9400, 0.0008), (0.9351, 0.0035)),
    'ElectricDevices': ((0.5926, 0.0073), (0.7065, 0.0057), (0.7279, 0.0050)),
    'FordA': ((0.8162, 0.0077), (0.9141, 0.0047), (0.9370, 0.0049)),
    'FordB': ((0.7067, 0.0087), (0.7723, 0.0040), (0.8131, 0.0056)),
    'GunPoint': ((0.9280, 0.0088), (1.0000, 0.0000), (0.9907, 0.0068)),
    'InsectEPGRegularTrain': ((0.6458, 0.0030), (0.9992, 0.0016), (0.9976, 0.0020)),
    'ItalyPowerDemand': ((0.9534, 0.0018), (0.9629, 0.0011), (0.9615, 0.0024)),
    'MedicalImages': ((0.7187, 0.0070), (0.7784, 0.0089), (0.7697, 0.0079)),
    'OSULeaf': ((0.5595, 0.0042), (0.9785, 0.0048), (0.9802, 0.0055)),
    'Plane': ((0.9771, 0.0047), (1.0000, 0.0000), (1.0000, 0.0000)),
    'PowerCons': ((0.9767, 0.0042), (0.8633, 0.0083), (0.8789, 0.0187)),
}
HELP = {'like': 'the set that --config.data=fake imitates'}
TABLE = ('ItalyPowerDemand,fcn', 'BME,mlp', 'BME,fcn', 'BME,resnet')
OWN_ROWS = ('',)  # one run of the default model, as the rows of the table are sets
PARAMETERS = {'ItalyPowerDemand,fcn': 264_962, 'BME,mlp': 567_003, 'BME,fcn': 265_091, 'BME,resnet': 504_387}
TINY = {'model.channels': '(4, 8, 4)'}


def get_config(variant=''):
    """`variant` is DATASET,ARCH, or one of the two; ItalyPowerDemand,fcn by default."""
    dataset, network = choose_pair(variant, TABLE[0], NETWORKS)
    config = base_config()
    config.model, largest, epochs, config.optimizer = choose('variant', network, NETWORKS)
    if dataset in PUBLISHED:
        config.published = {'test/accuracy': five_runs(dataset, network)}
    config.data = config.like = f'ucr/{dataset}'
    config.batch_size = min(UCR[dataset][0] // 10, largest) if dataset in UCR else largest
    config.steps = f'{epochs} epochs'
    config.log_every = '1 epoch'  # the training loss of an epoch decides on the best weights
    config.best = 'train/loss'
    config.population = 3
    return config


def get_experiment(config):
    """A classifier of series."""
    splits = open_data(config.data, like=config.like, data_dir=config.data_dir)
    init = {'kernel_init': timeseries.glorot} if config.model.name == 'mlp' else {}  # Keras's; the others have it built in
    return Experiment(
        model=models.make(config.model, **init, num_classes=len(splits.info['classes']), dtype=config.dtype),
        task=classification.softmax('x'),
        data=Data(splits.train, splits.evals, info=splits.info),
        optimizer=config.optimizer,
        evaluators={split: Evaluator(split) for split in splits.evals},
        expected=published(config),
        interface=interfaces.classification(splits),
    )


def five_runs(dataset, network) -> dict:
    """The five published runs. The tolerance is three of their standard deviations and one point, for sets whose test examples
    are few."""
    mean, std = dict(zip(NETWORKS, PUBLISHED[dataset], strict=True))[network]
    return dict(value=mean, tolerance=3 * std + 0.01, source='Ismail Fawaz et al. 2019, results-ucr-128.csv', std=std, runs=5)


if __name__ == '__main__':
    cli.main()
