from twinlens.core.errors import QueryError as QueryError
from twinlens.indexing.results import Hit as Hit
from twinlens.indexing.results import Results as Results
from twinlens.indexing.searcher import Searcher as Searcher
from twinlens.indexing.session import search as search

__version__: str
