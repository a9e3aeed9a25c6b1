// Search by a picture that is chosen, dropped or pasted. It stays in the browser, under a key that the address names.

import { about, visit } from "/page/address.js";
import { $ } from "/page/element.js";

const uploads = new Map(); // key in the address -> {file, url}

export const uploaded = (key) => uploads.get(key);

export function listen(refuse) {
  const ask = (file) => {
    if (!file) return;
    if (!/^image\/(jpeg|png|webp)$/.test(file.type)) return refuse("That is not a picture we can read", `“${file.name}” should be a JPEG, PNG or WebP file.`);
    const key = crypto.randomUUID?.().slice(0, 8) ?? String(Date.now());
    uploads.set(key, { file, url: URL.createObjectURL(file) });
    visit(about({ picture: key }));
  };
  $("file").addEventListener("change", () => { ask($("file").files[0]); $("file").value = ""; });
  addEventListener("paste", (event) => ask([...(event.clipboardData?.files ?? [])].find((file) => file.type.startsWith("image/"))));
  let depth = 0;
  const holdsFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  addEventListener("dragenter", (event) => { if (holdsFile(event)) { depth += 1; $("drop").hidden = false; } });
  addEventListener("dragleave", (event) => { if (holdsFile(event) && --depth <= 0) { depth = 0; $("drop").hidden = true; } });
  addEventListener("dragover", (event) => { if (holdsFile(event)) event.preventDefault(); });
  addEventListener("drop", (event) => {
    if (!holdsFile(event)) return;
    event.preventDefault();
    depth = 0;
    $("drop").hidden = true;
    ask(event.dataTransfer.files[0]);
  });
}
