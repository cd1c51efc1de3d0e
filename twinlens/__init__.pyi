from twinlens.errors import QueryError as QueryError
from twinlens.indexing.kept import search as search
from twinlens.indexing.results import Hit as Hit
from twinlens.indexing.results import Results as Results
from twinlens.indexing.searcher import Searcher as Searcher

__version__: str
