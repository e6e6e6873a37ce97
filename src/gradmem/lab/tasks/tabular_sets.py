"""Tables used in the literature on networks for tables, from the data folder."""

from functools import cached_property

import numpy as np

from gradmem.lab.data.table import Table, joined, read_table
from gradmem.lab.tasks.base import Budget
from gradmem.lab.tasks.files import FromFiles
from gradmem.lab.tasks.splitting import hold_out
from gradmem.lab.tasks.supervised import ACCURACY, root_mean_square
from gradmem.lab.tasks.tables import Parts, Prepared, Recipe, prepare
from gradmem.lab.tasks.tabular import TableTask


class TableSet(FromFiles, TableTask):
    """A table of the catalogue; 64 percent of the rows train, 16 validate, 20 test."""

    recipe: Recipe

    def prepared(self) -> Prepared:
        """The table, encoded and divided."""
        return self._prepared

    def table(self) -> tuple[Table, Parts | None]:
        """The columns, and the rows of each part where they are not drawn."""
        (file,) = self.files()
        return read_table(file.path, sha256=file.sha256), None

    @cached_property
    def _prepared(self) -> Prepared:
        table, parts = self.table()
        return prepare(table, self.recipe, parts)


class Adult(TableSet):
    """Income above 50,000 dollars; the census's own test file, a fifth of the other validates."""

    name = needs = "adult"
    title = "adult (census income, 32,561 + 16,281 rows), network 108-128-128-2 with ReLU"
    metric = ACCURACY
    target = 0.854
    budget = Budget(epochs=15, batch_size=256)
    recipe = Recipe("income", "classification")

    def table(self) -> tuple[Table, Parts]:
        """Both files, whose labels differ by a full stop."""
        first, second = (
            read_table(file.path, names=ADULT_COLUMNS, sha256=file.sha256) for file in self.files()
        )
        table = joined(first, second)
        labels = [text.rstrip(".") for text in table.column("income")]
        train, validation = hold_out(np.arange(len(first)), len(first) // 5, np.array(labels))
        parts = (train, validation, np.arange(len(first), len(table)))
        return table.replaced("income", labels), parts


ADULT_COLUMNS = (
    *("age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation"),
    *("relationship", "race", "sex", "capital-gain", "capital-loss", "hours-per-week"),
    *("native-country", "income"),
)


class California(TableSet):
    """The median value of houses in a Californian district, in dollars."""

    name = needs = "california"
    title = "california (housing of 1990, 20,640 rows), network 14-128-128-1 with ReLU"
    metric = root_mean_square(worst=115_700.0, unit="$", decimals=0)
    target = 54_000.0
    budget = Budget(epochs=30, batch_size=256)
    recipe = Recipe("median_house_value", "regression")


class Churn(TableSet):
    """Bank customers who leave."""

    name = needs = "churn"
    title = "churn (bank customers, 10,000 rows), network 13-128-128-2 with ReLU"
    metric = ACCURACY
    target = 0.855
    budget = Budget(epochs=20, batch_size=128)
    recipe = Recipe("Exited", "classification", drop=("RowNumber", "CustomerId", "Surname"))


class Diamonds(TableSet):
    """The price of a diamond, in dollars."""

    name = needs = "diamonds"
    title = "diamonds (53,940 rows), network 26-128-128-1 with ReLU"
    metric = root_mean_square(worst=3_990.0, unit="$", decimals=0)
    target = 620.0
    budget = Budget(epochs=15, batch_size=256)
    recipe = Recipe("price", "regression")


class House(TableSet):
    """The median price of houses in a region, from 16 figures of the census, in dollars."""

    name = needs = "house"
    title = "house (house_16H, 22,784 rows), network 16-128-128-1 with ReLU"
    metric = root_mean_square(worst=52_700.0, unit="$", decimals=0)
    target = 31_000.0
    budget = Budget(epochs=20, batch_size=256)
    recipe = Recipe("target", "regression")


class Otto(TableSet):
    """One of nine kinds of products from 93 counts."""

    name = needs = "otto"
    title = "otto (products, 61,878 rows), network 93-128-128-9 with ReLU"
    metric = ACCURACY
    target = 0.79
    budget = Budget(epochs=10, batch_size=256)
    recipe = Recipe("target", "classification", drop=("id",), scaling="standard")


class Magic(TableSet):
    """Gamma rays among other showers of particles, from 10 measurements."""

    name = needs = "magic"
    title = "magic (telescope, 19,020 rows), network 10-128-128-2 with ReLU"
    metric = ACCURACY
    target = 0.882
    budget = Budget(epochs=20, batch_size=256)
    recipe = Recipe("target", "classification")


class Letter(TableSet):
    """One of 26 letters from 16 measurements of its image."""

    name = needs = "letter"
    title = "letter (20,000 rows), network 16-128-128-26 with ReLU"
    metric = ACCURACY
    target = 0.93
    budget = Budget(epochs=20, batch_size=256)
    recipe = Recipe("target", "classification")


class Pol(TableSet):
    """A quantity of a telecommunication problem, 0 to 100, from 48 features."""

    name = needs = "pol"
    title = "pol (15,000 rows), network 48-128-128-1 with ReLU"
    metric = root_mean_square(worst=41.7)
    target = 3.6
    budget = Budget(epochs=30, batch_size=256)
    recipe = Recipe("target", "regression", scaling="standard")


class CpuAct(TableSet):
    """The share of time, in percent, that processors run in user mode, from 21 measurements."""

    name = needs = "cpu-act"
    title = "cpu-act (8,192 rows), network 21-128-128-1 with ReLU"
    metric = root_mean_square(worst=18.1)
    target = 3.15
    budget = Budget(epochs=40, batch_size=128)
    recipe = Recipe("target", "regression")


TABLE_SETS = (Adult, California, Churn, Diamonds, House, Otto, Magic, Letter, Pol, CpuAct)
