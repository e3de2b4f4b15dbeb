import { useEffect, useRef } from "preact/hooks";
import { commands, keyLabel } from "../commands";
import { helpOpen } from "../store";
import { texts } from "../texts";

const ARROWS = ["ArrowLeft", "ArrowUp", "ArrowRight", "ArrowDown"];
const pointerKeys: [string[], string][] = [
  [ARROWS, texts.pointerKeys.arrows], [["Enter"], texts.pointerKeys.enter], [["Enter", ...ARROWS, "Enter"], texts.pointerKeys.drag],
  [["Escape"], texts.pointerKeys.drop], [["Shift+Enter"], texts.pointerKeys.shift], [["Backspace"], texts.pointerKeys.remove],
];

export function Help() {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    if (helpOpen.value) dialog.current!.showModal();
    else dialog.current!.close();
  }, [helpOpen.value]);
  return (
    <dialog ref={dialog} aria-label={texts.help} onClose={() => { helpOpen.value = false; }}>
      <header class="row"><h1 class="grow">{texts.help}</h1><button class="icon" aria-label={texts.close} onClick={() => { helpOpen.value = false; }}>×</button></header>
      <div class="keys">
        {(Object.keys(texts.groups) as (keyof typeof texts.groups)[]).map((group) => (
          <section><h2>{texts.groups[group]}</h2><dl>
            {commands.filter((c) => c.group === group).map((c) => <div><dt>{c.keys.map((k) => <kbd>{keyLabel(k)}</kbd>)}</dt><dd>{texts.commands[c.name]}</dd></div>)}
            {group === "tools" && pointerKeys.map(([keys, text]) => <div><dt>{keys.map((k) => <kbd>{keyLabel(k)}</kbd>)}</dt><dd>{text}</dd></div>)}
            {group === "objects" && <div><dt><kbd>1</kbd>…<kbd>9</kbd></dt><dd>{texts.classKey}</dd></div>}
            {group === "view" && <div><dt><kbd>Space</kbd></dt><dd>{texts.panKey}</dd></div>}
          </dl></section>
        ))}
      </div>
    </dialog>
  );
}
