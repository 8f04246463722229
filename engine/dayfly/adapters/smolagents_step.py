"""The program of a step, in the container of `smolagents`' executor. What it reports is the agent's
own claim. It is read as text and run as `__main__`, whose names are the agent's."""


def _step() -> None:
    import ast, base64, contextlib, linecache, os, pickle, sandbox, traceback, types

    names, told = globals(), {}
    code = base64.b64decode(sandbox.data["code"]).decode("utf-8", "surrogatepass")
    try:
        with open(".dayfly-state", "rb") as state:
            sources, variables = pickle.load(state)
    except FileNotFoundError:
        sources, variables = [], pickle.dumps({})
    later = []
    for source in sources:
        try:
            exec(source, names)
        except Exception:
            later.append(source)  # it uses a variable
    names.update(pickle.loads(variables))
    for source in later:
        with contextlib.suppress(Exception):
            exec(source, names)
    linecache.cache["<step>"] = len(code), None, code.splitlines(True), "<step>"
    try:
        body = ast.parse(code, "<step>").body
        for node in body:
            if node is body[-1] and isinstance(node, ast.Expr):
                value = eval(compile(ast.Expression(node.value), "<step>", "eval"), names)
                told["value"] = None if value is None else repr(value)[: sandbox.data["shown"]]
                break
            try:
                exec(compile(ast.Module([node], []), "<step>", "exec"), names)
            except ImportError:
                if not sandbox.data["tools"]:
                    raise
                continue  # what a tool imports and the image lacks is missed where it is used
            if isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                sources.append(ast.unparse(node))
    except BaseException as error:
        if type(error).__name__ == "FinalAnswerException":
            told["final"] = error.value
        else:
            told["error"] = "".join(traceback.format_exception(type(error), error, error.__traceback__.tb_next))
    bound = set()
    for node in ast.parse("\n".join(sources)).body:
        bound |= {(one.asname or one.name).split(".")[0] for one in node.names} if hasattr(node, "names") else {node.name}
    kept, lost = {}, []
    for name, value in names.items():
        again = name in bound and (callable(value) or isinstance(value, types.ModuleType))
        if again or name.startswith("__") or name == "_step":
            continue
        try:
            pickle.loads(pickle.dumps(value))
            kept[name] = value
        except Exception:
            lost.append(name)
    with open(".dayfly-state.new", "wb") as state:
        pickle.dump((sources, pickle.dumps(kept)), state)
    os.replace(".dayfly-state.new", ".dayfly-state")
    # Half of a surrogate pair is not JSON.
    told = {name: text and text.encode("utf-8", "backslashreplace").decode() for name, text in told.items()}
    sandbox.send({**told, "lost": lost})


_step()
