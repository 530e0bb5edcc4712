"""The published data sets: where each comes from, its licence and its paper, and what its files must be."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class File:
    """A published file. `unpacked` is size and SHA-256 of what it unpacks to, where it is published packed."""

    name: str
    size: int  # bytes
    sha256: str
    unpacked: tuple[int, str] | None = None

    @property
    def plain(self) -> str:
        """Its name without the packing."""
        return self.name.removesuffix(".gz") if self.unpacked else self.name

    @property
    def content(self) -> tuple[int, str]:
        """Size in bytes and SHA-256 of what a loader reads."""
        return self.unpacked or (self.size, self.sha256)


@dataclass(frozen=True)
class Source:
    """A published data set. `bases` are URLs of folders that hold its files, tried in this order."""

    title: str
    folder: str
    bases: tuple[str, ...]
    licence: str
    citation: str
    files: tuple[File, ...]


_PLANETOID = (
    "https://raw.githubusercontent.com/kimiyoung/planetoid/master/data/",
    "https://cdn.jsdelivr.net/gh/kimiyoung/planetoid@master/data/",
    "https://gitee.com/jiajiewu/planetoid/raw/master/data/",
)
_PLANETOID_SPLIT = "Split: Yang et al. Revisiting Semi-Supervised Learning with Graph Embeddings. ICML 2016."
_PLANETOID_LICENCE = "MIT (kimiyoung/planetoid)"

# fmt: off
SOURCES: dict[str, Source] = {
    "mnist": Source(
        title="MNIST",
        folder="mnist",
        bases=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        licence="CC BY-SA 3.0, as commonly given; none is stated at the source",
        citation="LeCun et al. Gradient-Based Learning Applied to Document Recognition. Proc. IEEE 86(11), 1998.",
        files=(
            File("train-images-idx3-ubyte.gz", 9_912_422,
                 "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                 (47_040_016, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db")),
            File("train-labels-idx1-ubyte.gz", 28_881,
                 "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                 (60_008, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5")),
            File("t10k-images-idx3-ubyte.gz", 1_648_877,
                 "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                 (7_840_016, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7")),
            File("t10k-labels-idx1-ubyte.gz", 4_542,
                 "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
                 (10_008, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2")),
        ),
    ),
    "fashion-mnist": Source(
        title="Fashion-MNIST",
        folder="fashion-mnist",
        bases=(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
        ),
        licence="MIT (zalandoresearch/fashion-mnist)",
        citation="Xiao et al. Fashion-MNIST: a Novel Image Dataset for Benchmarking. 2017, arXiv:1708.07747.",
        files=(
            File("train-images-idx3-ubyte.gz", 26_421_880,
                 "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                 (47_040_016, "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888")),
            File("train-labels-idx1-ubyte.gz", 29_515,
                 "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                 (60_008, "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9")),
            File("t10k-images-idx3-ubyte.gz", 4_422_102,
                 "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                 (7_840_016, "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b")),
            File("t10k-labels-idx1-ubyte.gz", 5_148,
                 "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
                 (10_008, "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34")),
        ),
    ),
    "cifar10": Source(
        title="CIFAR-10",
        folder="cifar10",
        bases=("https://www.cs.toronto.edu/~kriz/",),
        licence="not stated at the source",
        citation="Krizhevsky. Learning Multiple Layers of Features from Tiny Images. University of Toronto, 2009.",
        files=(
            File("cifar-10-binary.tar.gz", 170_052_171,  # the page gives its MD5: c32a1d4ab5d03f1284b67883e8d87530
                 "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"),
        ),
    ),
    "cora": Source(
        title="Cora",
        folder="planetoid",
        bases=_PLANETOID,
        licence=_PLANETOID_LICENCE,
        citation=f"Sen et al. Collective Classification in Network Data. AI Magazine 29(3), 2008. {_PLANETOID_SPLIT}",
        files=(
            File("ind.cora.x", 22_119, "23cfa55d91c6f624233f5eb7b6e3f141f1bd2b2ae39608a63cf5d084bb27baab"),
            File("ind.cora.y", 4_054, "94465c14eb53e04ca262198dcbb2521ee8af60fb3f3d546cd6ca24a511b0e7d1"),
            File("ind.cora.tx", 148_025, "b9afbaa4a400df991f6f02ef677e1e44da55ffc04801fd02f9e673987829226a"),
            File("ind.cora.ty", 28_135, "41f5ac76596a1699cc33f53084a2419e92961c42bb75f36fc38e616d348532ad"),
            File("ind.cora.allx", 257_305, "9419ba2f26f5c35243db64aba110e0f35a04851609e0dc5433450676ca6b8543"),
            File("ind.cora.ally", 47_959, "2b998f5cc7fedc86e7f97ca2498f47a1ffc1462c29e2d578b23bf3f62b6e7d71"),
            File("ind.cora.graph", 59_847, "58f13302f39dde8852dad6fe6d15b89b077b6d7f837626bce671ef80344b383d"),
            File("ind.cora.test.index", 5_000, "297ce89af2b51a6a194181c7dbe1796c6a1cf9cd9349a88383b1b1e227867875"),
        ),
    ),
    "citeseer": Source(
        title="Citeseer",
        folder="planetoid",
        bases=_PLANETOID,
        licence=_PLANETOID_LICENCE,
        citation=f"Sen et al. Collective Classification in Network Data. AI Magazine 29(3), 2008. {_PLANETOID_SPLIT}",
        files=(
            File("ind.citeseer.x", 31_087, "d20de19150741e555de0ed037195630fc194114ebc7fd72ced62810148aa22f6"),
            File("ind.citeseer.y", 3_014, "8ba87e515d8e3ee3cf52f6d2c5b86aa73f11ecad825a808455209ec26cd54924"),
            File("ind.citeseer.tx", 260_321, "539a8906a2da97628d212f2fdd668c109a8b3f0d36574b59e5d3fd5b5303da21"),
            File("ind.citeseer.ty", 24_135, "55e5bd1ba1e733a04598753ad1a8d57957f4b8f89e74519f41f4f4938767e4ce"),
            File("ind.citeseer.allx", 595_021, "2ac30345d95c9ec933a817ee0bdd6a5f077f8c184a20e696910192d534414668"),
            File("ind.citeseer.ally", 55_623, "f704b2d986dde6c2669934de1f3ae5696a6cf9455c0f6b2646a2d135ea0a1c95"),
            File("ind.citeseer.graph", 61_987, "d79a4ef9d3e7169aee8946145f6b7306e35bc79bffad26346cfb94e10e9912a7"),
            File("ind.citeseer.test.index", 5_000, "2af990671580b6b2df5d158d1038f8292e30c9cd821b5453f399659b25b723d4"),
        ),
    ),
    "pubmed": Source(
        title="Pubmed",
        folder="planetoid",
        bases=_PLANETOID,
        licence=_PLANETOID_LICENCE,
        citation=f"Namata et al. Query-Driven Active Surveying for Collective Classification. MLG 2012. {_PLANETOID_SPLIT}",
        files=(
            File("ind.pubmed.x", 23_172, "fbe9cb5c47200d1b7769a26e579be3b7130b556831f9d850e77c4c74f2599b33"),
            File("ind.pubmed.y", 854, "e6c807633307a07ed659249006536a147c7999c797f11a2560752990181b41b3"),
            File("ind.pubmed.tx", 405_505, "4eb5f5d0f30f26497eb0ac6ac9719d09c67e284f1ed0385c93f3ef27a671da3d"),
            File("ind.pubmed.ty", 12_135, "ee2e0d4819d9fbcc403689c3bf2e49face401b605932f093bc58ab6461130fdd"),
            File("ind.pubmed.allx", 7_578_385, "508e538e2abdccdd54c4d3e9f49d638b4af7107d85845f66ddea5a5152658b7e"),
            File("ind.pubmed.ally", 224_739, "0c37bbe3b5014ec365e9d393cf4791925e5ed94fb194305d74f064a8d7b50f0e"),
            File("ind.pubmed.graph", 471_808, "5b89f0036ca22909471f1e6558eb42fa06e0c730a577bde5b058b40638f81dc9"),
            File("ind.pubmed.test.index", 6_000, "b101d421688bbaecbd82e8a18f1e282378d6830f3a37666f28ebc47f844341b5"),
        ),
    ),
    "wikitext-2": Source(
        title="WikiText-2",
        folder="wikitext-2",
        bases=(
            "https://raw.githubusercontent.com/pytorch/examples/main/word_language_model/data/wikitext-2/",
            "https://cdn.jsdelivr.net/gh/pytorch/examples@main/word_language_model/data/wikitext-2/",
        ),
        licence="CC BY-SA (text of Wikipedia)",
        citation="Merity, Xiong, Bradbury & Socher. Pointer Sentinel Mixture Models. ICLR 2017, arXiv:1609.07843.",
        files=(
            File("train.txt", 10_797_148, "9e9fa1ad55b1c2c95b08e37dd8e653f638fac2c6de904b79e813611eefbc985f"),
            File("valid.txt", 1_121_681, "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8"),
            File("test.txt", 1_256_449, "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0"),
        ),
    ),
    "tinyshakespeare": Source(
        title="Tiny Shakespeare",
        folder="tinyshakespeare",
        bases=(
            "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/",
            "https://cdn.jsdelivr.net/gh/karpathy/char-rnn@master/data/tinyshakespeare/",
        ),
        licence="not stated at the source; the text is Shakespeare's",
        citation="Karpathy. The Unreasonable Effectiveness of Recurrent Neural Networks. 2015.",
        files=(File("input.txt", 1_115_394, "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"),),
    ),
    "pima-diabetes": Source(
        title="Pima diabetes",
        folder="pima-diabetes",
        bases=(
            "https://raw.githubusercontent.com/hunkim/PyTorchZeroToAll/master/data/",
            "https://cdn.jsdelivr.net/gh/hunkim/PyTorchZeroToAll@master/data/",
        ),
        licence="not stated at the source",
        citation="Smith et al. Using the ADAP Learning Algorithm to Forecast the Onset of Diabetes Mellitus. SCAMC 1988.",
        files=(
            File("diabetes.csv.gz", 13_539, "398214d0f6b7f4a722f598d8e424f28bc078abbd16ebdeea0f8e264492325aa4",
                 (53_438, "89e33de71cd5afdcd4fe8a722b60c4d69eb8f9b96446cea9347d735ff2df395e")),
        ),
    ),
    "sst2": Source(
        title="SST-2",
        folder="sst2",
        bases=(
            "https://raw.githubusercontent.com/clairett/pytorch-sentiment-classification/master/data/SST2/",
            "https://cdn.jsdelivr.net/gh/clairett/pytorch-sentiment-classification@master/data/SST2/",
        ),
        licence="not stated at the source",
        citation="Socher et al. Recursive Deep Models for Semantic Compositionality Over a Sentiment Treebank. EMNLP 2013.",
        files=(
            File("train.tsv", 720_259, "ec192f833a64da08f475488a77b0d0b47db47acd0f458bd18433fc793b569920"),
            File("dev.tsv", 92_057, "eddea6b39e601dd4e7a672b53cc40fdf6019fa80522f351206c24340ca5d9359"),
            File("test.tsv", 188_749, "831169c7e2e429d6026e1bdbb542f33b636e3e596caad9602ebc953c205928b7"),
        ),
    ),
    "paintings": Source(
        title="Two paintings",
        folder="style-images",
        bases=(
            "https://raw.githubusercontent.com/jcjohnson/neural-style/master/examples/inputs/",
            "https://cdn.jsdelivr.net/gh/jcjohnson/neural-style@master/examples/inputs/",
        ),
        licence="public domain by age: J. M. W. Turner 1805, Edvard Munch 1893 (photographs: jcjohnson/neural-style, MIT)",
        citation="Turner, The Shipwreck, 1805. Munch, The Scream, 1893.",
        files=(
            File("shipwreck.jpg", 144_730, "4f7cf34e3cd4a5daaf3f421f059ca9a01aaa2a3afd7243d6670c9c8bc001a213"),
            File("the_scream.jpg", 216_723, "f3075cddeb974a9ee1d6418f7f33fd05185a7ac7dcb4288bd2805d499a9dcaee"),
        ),
    ),
    "photographs": Source(
        title="Two photographs",
        folder="style-images",
        bases=(
            "https://raw.githubusercontent.com/scikit-image/scikit-image/v0.19.3/skimage/data/",
            "https://cdn.jsdelivr.net/gh/scikit-image/scikit-image@v0.19.3/skimage/data/",
        ),
        licence="CC0 (chelsea.png, by Stefan van der Walt); public domain (rocket.jpg, by SpaceX)",
        citation="van der Walt et al. scikit-image: image processing in Python. PeerJ 2, 2014.",
        files=(
            File("chelsea.png", 240_512, "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb"),
            File("rocket.jpg", 112_525, "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c"),
        ),
    ),
    **{
        name.lower(): Source(
            title=name,
            folder="ett",
            bases=(
                "https://raw.githubusercontent.com/zhouhaoyi/ETDataset/main/ETT-small/",
                "https://cdn.jsdelivr.net/gh/zhouhaoyi/ETDataset@main/ETT-small/",
            ),
            licence="CC BY-ND 4.0 (zhouhaoyi/ETDataset)",
            citation="Zhou et al. Informer: Beyond Efficient Transformer for Long Sequence Forecasting. AAAI 2021.",
            files=(File(f"{name}.csv", size, sha256),),
        )
        for name, size, sha256 in (
            ("ETTh1", 2_589_657, "f18de3ad269cef59bb07b5438d79bb3042d3be49bdeecf01c1cd6d29695ee066"),
            ("ETTh2", 2_417_960, "a3dc2c597b9218c7ce1cd55eb77b283fd459a1d09d753063f944967dd6b9218b"),
            ("ETTm1", 10_360_719, "6ce1759b1a18e3328421d5d75fadcb316c449fcd7cec32820c8dafda71986c9e"),
        )
    },
    "exchange-rate": Source(
        title="Exchange rates of eight countries",
        folder="exchange-rate",
        bases=(
            "https://raw.githubusercontent.com/laiguokun/multivariate-time-series-data/master/exchange_rate/",
            "https://cdn.jsdelivr.net/gh/laiguokun/multivariate-time-series-data@master/exchange_rate/",
        ),
        licence="not stated at the source",
        citation="Lai et al. Modeling Long- and Short-Term Temporal Patterns with Deep Neural Networks. SIGIR 2018.",
        files=(
            File("exchange_rate.txt.gz", 177_142,
                 "6a4fbb561dcdee43f071a83badbeec9223a335552278348656738b556f1c2e9d",
                 (546_336, "0127465b51e3cd3c360f8eb2be30cfd294689a2a55903eb8245aafc396626c7f")),
        ),
    ),
}
# fmt: on
