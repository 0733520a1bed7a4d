"""`python -m flows NAME`: the same commands as `prefect run NAME`, without the plugin."""

from flows import environment

if __name__ == "__main__":
    environment.prepare()

    from flows.cli import app

    app()
