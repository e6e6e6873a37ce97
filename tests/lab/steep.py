"""Tasks of one's own that have axes, as the text of a module."""

MINE = """
    import torch
    from gradmem.lab.tasks import Batch, Budget, FixedSplits, Metric, Range, Task


    class Steep(Task):
        name = "steep"
        title = "A line, by linear layers"
        metric = Metric("error", higher_is_better=False, worst=9.0)
        budget = Budget(epochs=1, batch_size=10)
        target = 0.1
        partial = "the line is a part of the plane"
        variations = {"depth": (1, 3), "slope": Range(0, 4, (0, 2)), "kind": ("straight", "bent")}

        def __init__(self, depth=1, slope=2.0, kind="straight"):
            self.layers, self.slope, self.kind = depth, slope, kind
            if slope == 3:
                raise ValueError("no line has the slope 3")
            if (depth, slope, kind) != (1, 2, "straight"):
                self.name = f"steep-depth{depth}-slope{slope:g}-{kind}"

        def at(self, **where):
            return Steep(**where)

        def data(self):
            x = torch.linspace(-1, 1, 60).unsqueeze(1)
            whole = Batch(x, self.slope * (x if self.kind == "straight" else x.abs()))
            return FixedSplits(*(whole[torch.arange(k, 60, 3)] for k in range(3)))

        def model(self, seed):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                return torch.nn.Sequential(*(torch.nn.Linear(1, 1) for _ in range(self.layers)))

        def loss(self, model, batch):
            return (model(batch.inputs) - batch.targets).square().mean()

        def score(self, model, batch):
            return float(self.loss(model, batch))


    class Ordered(Steep):
        name = "ordered"
        ordered = True


    class Clashing(Steep):
        variations = {"decay": (1, 2)}


    class Nameless(Steep):
        def at(self, **where):
            return Nameless()


    class Deaf(Steep):
        def at(self, depth):
            return self


    class Crooked(Steep):
        variations = {"a=b": (1, 2)}
"""
