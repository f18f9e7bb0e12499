from raycae.storage import Place


def write(folder: Place) -> Place:
    return folder / "report.html"
