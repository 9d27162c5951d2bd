"""Runs statements with the engine of ClickHouse that chdb is.

chdb_run.py FILE: FILE is a JSON array of statements. Prints an array of {"answer": …} and {"error": …}; answers that are no
text are "hex:…".
"""

import json
import sys
import tempfile

from chdb import session

with open(sys.argv[1], encoding="utf-8") as file:
    statements = json.load(file)
answers = []
with tempfile.TemporaryDirectory() as folder:
    engine = session.Session(folder)
    for statement in statements:
        try:
            answer = engine.query(statement, "TabSeparated").bytes()
            is_text = not statement.endswith("RowBinary")
            answers.append({"answer": answer.decode() if is_text else "hex:" + answer.hex()})
        except Exception as error:
            answers.append({"error": str(error)})
    engine.close()
print(json.dumps(answers))
