"""The forecast champions: one for each horizon, each followed by itself."""

from serve.champion import Followed, NoModel


class Forecasts:
    """Those of `champions`, serve.champion.Champion each, that are loaded."""

    def __init__(self, champions):
        self._champions = champions

    def current(self):
        """`{horizon: Served}` of what is loaded; raises NoModel where nothing is."""
        served = [champion.served for champion in self._champions]
        found = {each.model.horizon: each for each in served if each and each.model.horizon}
        if not found:
            uris = ", ".join(champion.model_uri for champion in self._champions) or "none"
            raise NoModel(
                f"No forecast is loaded (LIQUIDITY_FORECASTS: {uris}): train one, for example with "
                "`train.py --horizon 1,7,30`; the server finds it by itself."
            )
        return dict(sorted(found.items()))

    def followed(self, served):
        """As serve.champion.Champion has it, of one of `current`."""
        found = (each.followed(served) for each in self._champions)
        return next((each for each in found if each.at), Followed(served))

    def stop(self):
        """End all watching threads after their current round."""
        for champion in self._champions:
            champion.stop()
