// The playground: one form, one run at a time over POST /v1/run/stream. No HTML made of text:
// everything is a text node.
"use strict";

const $ = (id) => document.getElementById(id);
const KEEP = 400000; // characters shown; a browser with more in one element stops being usable
let controller = null;
let shown = 0;
let program = null; // the editor
let python = "3"; // of a program that does not say

const EXAMPLES = {
  "Output as it is written": `import sys, time

for number in range(3):
    print("working", number)
    time.sleep(0.5)
print("this goes to stderr", file=sys.stderr)
`,
  "Input and data": `import sys

import sandbox

print("standard input:", sys.stdin.read())
sandbox.send({"received": sandbox.data})
`,
  "An uncaught exception": `def invert(number):
    return 1 / number


print(invert(0))
`,
  "A time-out": `print("output is kept to the last byte")
while True:
    pass
`,
  "Out of memory": `blocks = []
while True:
    blocks.append(bytearray(1_000_000))
`,
  "For the cases: a sum": `print(sum(map(int, input().split())))
`,
  "Files, processes, no network": `import os
import socket
import subprocess

with open("note.txt", "w") as file:
    file.write("gone afterwards")
print(os.listdir(), os.getuid())
print(subprocess.run(["uname", "-s"], capture_output=True, text=True).stdout)
socket.create_connection(("192.0.2.1", 80), timeout=1)
`,
};

// In a shadow root the editor's styles are adopted style sheets, which the page's policy allows;
// <style> elements are forbidden.
function makeEditor(text) {
  const { EditorState, EditorView, HighlightStyle, bracketMatching, defaultKeymap, drawSelection, history, historyKeymap, indentLess,
    indentMore, indentOnInput, indentUnit, keymap, lineNumbers, python, syntaxHighlighting, tags } = CodeMirror;
  const colours = HighlightStyle.define([
    { tag: [tags.keyword, tags.operatorKeyword, tags.controlKeyword], color: "var(--keyword)" },
    { tag: [tags.string, tags.special(tags.string)], color: "var(--string)" },
    { tag: tags.comment, color: "var(--comment)", fontStyle: "italic" },
    { tag: [tags.number, tags.bool, tags.null], color: "var(--number)" },
    { tag: [tags.function(tags.definition(tags.variableName)), tags.definition(tags.className)], color: "var(--name)" },
  ]);
  const theme = EditorView.theme({
    "&": { color: "var(--front)", fontSize: ".9rem" },
    "&.cm-focused": { outline: "none" },
    ".cm-scroller": { fontFamily: "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace", minHeight: "14rem", maxHeight: "32rem" },
    ".cm-content": { caretColor: "var(--front)" },
    ".cm-cursor": { borderLeftColor: "var(--front)" },
    ".cm-gutters": { backgroundColor: "transparent", color: "var(--soft)", border: "none" },
    "&.cm-focused > .cm-scroller > .cm-selectionLayer .cm-selectionBackground, .cm-selectionBackground": {
      backgroundColor: "color-mix(in srgb, var(--accent) 30%, transparent)",
    },
    "&.cm-focused .cm-matchingBracket": { backgroundColor: "transparent", outline: "1px solid var(--soft)" },
  });
  const root = $("code").attachShadow({ mode: "open" });
  return new EditorView({
    root,
    parent: root,
    state: EditorState.create({
      doc: text,
      extensions: [
        lineNumbers(), history(), drawSelection(), indentOnInput(), bracketMatching(), indentUnit.of("    "), python(),
        syntaxHighlighting(colours), theme, EditorView.lineWrapping,
        EditorView.contentAttributes.of({ "aria-label": "Program", spellcheck: "false", autocapitalize: "off" }),
        keymap.of([
          { key: "Mod-Enter", run: () => true }, // the page's: it runs the program
          { key: "Tab", run: indentMore, shift: indentLess },
          ...defaultKeymap, ...historyKeymap,
        ]),
      ],
    }),
  });
}

function show(text) {
  program.dispatch({ changes: { from: 0, to: program.state.doc.length, insert: text } });
}

function write(stream, text) {
  if (!text || shown > KEEP) return;
  const output = $("output");
  const atEnd = output.scrollHeight - output.scrollTop - output.clientHeight < 40;
  shown += text.length;
  const last = output.lastElementChild;
  if (last && last.className === stream) last.append(text);
  else {
    const span = document.createElement("span");
    span.className = stream;
    span.append(text);
    output.append(span);
  }
  if (shown > KEEP) notice("\n… more than this page shows\n");
  if (atEnd) output.scrollTop = output.scrollHeight;
}

function notice(text) {
  const span = document.createElement("span");
  span.className = "notice";
  span.append(text);
  $("output").append(span);
}

function badges(list) {
  $("badges").replaceChildren(...list.map(([text, kind]) => {
    const item = document.createElement("li");
    item.className = kind || "";
    item.append(text);
    return item;
  }));
}

function milliseconds(value) {
  return value >= 1000 ? (value / 1000).toFixed(2) + " s" : value.toFixed(0) + " ms";
}

function finished(result, queueMs) {
  const list = [[result.outcome.replaceAll("_", " "), result.isError ? "bad" : "good"]];
  if (result.exitCode) list.push(["exit code " + result.exitCode]);
  if (result.signal) list.push(["signal " + result.signal]);
  list.push(["wall " + milliseconds(result.wallMs)]);
  if (result.cpuMs !== null) list.push(["cpu " + milliseconds(result.cpuMs)]);
  if (result.peakMemoryBytes !== null) list.push(["memory " + (result.peakMemoryBytes / 1e6).toFixed(1) + " MB"]);
  list.push(["queue " + milliseconds(queueMs)]);
  if (result.stdoutTruncated) list.push(["stdout cut", "bad"]);
  if (result.stderrTruncated) list.push(["stderr cut", "bad"]);
  const dropped = [["message", result.messagesDropped], ["display", result.displaysDropped], ["skipped file", result.filesSkippedDropped]];
  for (const [name, count] of dropped) if (count) list.push([`${count.toLocaleString("en")} ${name}${count > 1 ? "s" : ""} dropped`, "bad"]);
  badges(list);
  for (const message of result.messages) notice("sandbox.send: " + JSON.stringify(message) + "\n");
  for (const { path, why } of result.filesSkipped) notice(`${printable(path)} did not come back: ${why.replaceAll("_", " ")}\n`);
  if (result.lastValue !== null && result.lastValue.repr !== "None") notice(`value: ${result.lastValue.repr}\n`);
  picture(result.displays);
  offer(result.files);
}

// Pixels, and vectors as <img>, where no script of theirs runs. Of anything else its text: HTML is
// the program's.
const IMAGES = ["image/png", "image/jpeg", "image/gif", "image/webp", "image/svg+xml"];
function picture(displays) {
  const images = [];
  for (const display of displays) {
    const text = typeof display["text/plain"] === "string" ? display["text/plain"] : "figure";
    const type = IMAGES.find((type) => typeof display[type] === "string");
    if (!type) {
      notice(`sandbox.display: ${text}\n`);
      continue;
    }
    const image = document.createElement("img");
    const content = display[type];
    image.src = `data:${type}` + (type === "image/svg+xml" ? "," + encodeURIComponent(content) : ";base64," + content);
    image.alt = text;
    images.push(image);
  }
  $("figures").replaceChildren(...images);
}

// A program chooses the names of its files. Controls may turn what is read around: "\u202egnp.exe"
// looks like "exe.png".
function printable(path) {
  return path.replace(/[\p{C}\\:*?"<>|]/gu, "_");
}

// Downloads of bytes, and never a page of this server: with another type, a browser might open one.
function offer(files) {
  for (const link of $("files").querySelectorAll("a")) URL.revokeObjectURL(link.href);
  $("files").replaceChildren(...Object.entries(files).map(([path, content]) => {
    const bytes = Uint8Array.from(atob(content), (character) => character.charCodeAt(0));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([bytes], { type: "application/octet-stream" }));
    link.download = printable(path.slice(path.lastIndexOf("/") + 1));
    link.append(printable(path));
    const item = document.createElement("li");
    item.append(link, ` ${bytes.length.toLocaleString("en")} bytes`);
    return item;
  }));
}

function job() {
  const old = ($("python").value || python) === "2"; // which has neither figures nor a last value
  const body = { code: program.state.doc.toString(), fetch: ["**"], figures: !old, lastValue: !old };
  const limit = Number($("timeout").value);
  if (limit) body.timeoutMs = limit;
  if ($("python").value) body.v3 = $("python").value === "3";
  if ($("stdin").value) body.stdin = $("stdin").value;
  if ($("data").value.trim()) body.data = JSON.parse($("data").value);
  return body;
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      if (part.startsWith(":")) continue; // a comment, to keep the connection
      const [name, data] = part.split("\n");
      yield { name: name.slice("event: ".length), value: JSON.parse(data.slice("data: ".length)) };
    }
  }
}

// What a refusal says. A proxy's own answer, of whatever form, has its status alone.
async function refusal(answer) {
  try {
    const { title, detail, type } = await answer.json();
    if (title) return { title, detail, type };
  } catch (error) { /* not JSON */ }
  return { title: answer.statusText, detail: "This is not an answer of dayfly. Something between it and this page has answered." };
}

// Cases: what each is given and what is expected of it, and the verdict when it is known.
function addCase(stdin, expected) {
  const item = document.createElement("li");
  const columns = document.createElement("div");
  columns.className = "columns";
  for (const [name, text] of [["Input", stdin], ["Expected output", expected]]) {
    const box = document.createElement("div");
    const label = document.createElement("label");
    const area = document.createElement("textarea");
    area.rows = 2;
    area.spellcheck = false;
    area.value = text;
    label.append(name, area);
    box.append(label);
    columns.append(box);
  }
  item.append(columns, document.createElement("output"));
  $("caselist").append(item);
}

function judgement() {
  const cases = [...$("caselist").children].map((item) => {
    const [stdin, expected] = [...item.querySelectorAll("textarea")].map((area) => area.value);
    item.querySelector("output").replaceChildren();
    return { stdin, expected };
  });
  const body = { code: program.state.doc.toString(), cases: { cases }, concurrency: 2 };
  const limit = Number($("timeout").value);
  if (limit) body.limits = { wallMs: limit };
  return body;
}

function told(index, result) {
  const output = $("caselist").children[index].querySelector("output");
  output.className = result.verdict === "accepted" ? "good" : "bad";
  const time = result.cpuMs === null ? "" : ` · ${milliseconds(result.cpuMs)}`;
  output.textContent = `${result.verdict.replaceAll("_", " ")}${time}${result.feedback ? " · " + result.feedback : ""}`;
  if (result.result && result.result.stderr) write("stderr", `case ${index + 1}:\n${result.result.stderr}`);
}

function judged(verdict) {
  badges([
    [verdict.verdict.replaceAll("_", " "), verdict.verdict === "accepted" ? "good" : "bad"],
    [`${verdict.passed} of ${verdict.total} cases`], ["wall " + milliseconds(verdict.wallMs)],
  ]);
  if (verdict.feedback) write("stderr", verdict.feedback);
}

function choose(tab) {
  for (const one of document.querySelectorAll("[role=tab]")) {
    const chosen = one === tab;
    one.setAttribute("aria-selected", chosen);
    one.tabIndex = chosen ? 0 : -1;
    $(one.getAttribute("aria-controls")).hidden = !chosen;
  }
  $("run").textContent = tab.id === "casestab" ? "Judge" : "Run";
}

async function run() {
  if (controller) return;
  const judging = !$("cases").hidden;
  let next = 0;
  shown = 0;
  $("output").replaceChildren();
  picture([]);
  offer({});
  let body;
  try {
    body = judging ? judgement() : job();
  } catch (error) {
    badges([["data is not valid JSON", "bad"]]);
    $("data").focus();
    return;
  }
  controller = new AbortController();
  busy(true);
  badges([["waiting", "busy"]]);
  $("badges").scrollIntoView({ block: "nearest" }); // on a narrow screen it is far below the button
  let ended = false;
  let queueMs = 0;
  try {
    const headers = { "Content-Type": "application/json" };
    if ($("key").value) headers["X-API-Key"] = $("key").value;
    const answer = await fetch(judging ? "v1/judge/stream" : "v1/run/stream?combined=false", { method: "POST", headers, body: JSON.stringify(body), signal: controller.signal });
    if (!answer.ok) {
      const problem = await refusal(answer);
      badges([[answer.status + " " + problem.title, "bad"]]);
      notice(problem.detail || "");
      if (problem.type === "/problems/key") $("key").focus();
      return;
    }
    remember();
    for await (const { name, value } of events(answer.body)) {
      if (name === "started") {
        queueMs = value.queueMs;
        badges([["running", "busy"]]);
      } else if (name === "output") write(value.stream, value.text);
      else if (name === "result") {
        ended = true;
        finished(value, queueMs);
      } else if (name === "case") told(next++, value);
      else if (name === "verdict") {
        ended = true;
        judged(value);
      } else if (name === "error") {
        ended = true;
        badges([[value.title, "bad"]]);
        notice(value.detail);
      }
    }
    if (!ended) badges([["the connection was lost", "bad"]]);
  } catch (error) {
    if (error.name === "AbortError") badges([["stopped", "bad"]]);
    else {
      badges([["no connection", "bad"]]);
      notice(String(error));
    }
  } finally {
    controller = null;
    busy(false);
    $("badges").scrollIntoView({ block: "nearest" });
  }
}

function busy(is) {
  $("run").disabled = is;
  $("stop").disabled = !is;
}

function stop() {
  if (controller) controller.abort();
}

function remember() {
  try { // this tab only, and never on disk beyond its session
    sessionStorage.setItem("key", $("key").value);
  } catch (error) { /* storage may be forbidden: then it is typed again */ }
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    run();
  } else if (event.key === "Escape" && !$("code").contains(event.target)) stop(); // there it lets Tab move on
});
$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  run();
});
$("stop").addEventListener("click", stop);
for (const tab of document.querySelectorAll("[role=tab]")) {
  tab.addEventListener("click", () => choose(tab));
  tab.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    const other = $(tab.id === "runtab" ? "casestab" : "runtab");
    choose(other);
    other.focus();
  });
}
$("addcase").addEventListener("click", () => addCase("", ""));
addCase("1 2", "3");
addCase("20 22", "42");
for (const name of Object.keys(EXAMPLES)) $("examples").add(new Option(name, name));
$("examples").addEventListener("change", () => show(EXAMPLES[$("examples").value]));
program = makeEditor(Object.values(EXAMPLES)[0]);

(async () => {
  try {
    $("key").value = sessionStorage.getItem("key") || "";
  } catch (error) { /* see remember() */ }
  let limits;
  try {
    const answer = await fetch("v1/limits");
    if (!answer.ok) throw new Error(answer.status + " " + answer.statusText);
    limits = await answer.json();
  } catch (error) {
    $("keylabel").hidden = false; // it may be needed
    $("limits").textContent = `The limits could not be read (${error.message}). Reload the page to try again.`;
    return;
  }
  python = limits.python;
  $("keylabel").hidden = !limits.keyRequired;
  $("timeout").max = limits.maxTimeoutMs;
  $("timeout").value = limits.timeoutMs;
  const mb = (bytes) => bytes / 1e6 + " MB";
  $("limits").textContent =
    `At most ${milliseconds(limits.maxTimeoutMs)}, ${limits.memoryMb} MB of memory, ${mb(limits.stdoutBytes)} of stdout and ` +
    `${mb(limits.stderrBytes)} of stderr; no network. dayfly ${limits.version}`;
})();
