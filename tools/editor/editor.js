// What the page takes of CodeMirror; `build` makes one file of it.
export { EditorView, keymap, lineNumbers, drawSelection, highlightActiveLine } from "@codemirror/view";
export { EditorState } from "@codemirror/state";
export { history, historyKeymap, defaultKeymap, indentMore, indentLess } from "@codemirror/commands";
export { indentUnit, bracketMatching, indentOnInput, syntaxHighlighting, HighlightStyle } from "@codemirror/language";
export { tags } from "@lezer/highlight";
export { python } from "@codemirror/lang-python";
