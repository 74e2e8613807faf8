// The pages work without this file. It only saves clicks: submit on change, drop or paste an image, copy a request,
// come back by itself.
const root = document.documentElement;
const search = document.querySelector("#search");
const upload = document.querySelector("#upload");

// A quiet bar while the next page is on its way; gone when this page is shown again (back, or a download).
const busy = (on) => root.classList.toggle("busy", on);
addEventListener("submit", () => busy(true));
addEventListener("click", (event) => {
  const link = event.target.closest?.("a[href^='/']");
  const apart = event.ctrlKey || event.metaKey || event.shiftKey || event.button;
  if (link && !("copy" in link.dataset) && !apart) busy(true);
});
let muted = [];
addEventListener("pageshow", (event) => {
  busy(false);
  for (const control of muted) control.disabled = false;
  muted = [];
  if (event.persisted) search?.reset();
});

if (search) {
  const asks = () => search.elements.q?.value.trim() || search.querySelector("[name=like],[name=img],[name=with]");
  for (const control of document.querySelectorAll("[form=search]")) {
    control.addEventListener("change", () => (asks() || control.name === "sort") && search.requestSubmit());
  }
  // Leave out of the URL what has its default.
  search.addEventListener("submit", () => {
    const blend = document.querySelector("[name=ranking]:checked")?.value === "hybrid_linear";
    const idle = (control) => (control.name === "alpha" ? !blend : control.name && !control.value);
    muted = [...search.elements].filter((control) => !control.disabled && idle(control));
    for (const control of muted) control.disabled = true;
  });
}

if (upload) {
  const send = (files) => {
    const image = [...files].find((file) => file.type.startsWith("image/"));
    if (!image) return;
    const transfer = new DataTransfer();
    transfer.items.add(image);
    upload.image.files = transfer.files;
    upload.requestSubmit();
  };
  upload.image.addEventListener("change", () => upload.requestSubmit());
  addEventListener("paste", (event) => send(event.clipboardData?.files ?? []));
  addEventListener("dragover", (event) => {
    event.preventDefault();
    root.classList.toggle("dropping", event.dataTransfer.types.includes("Files"));
  });
  addEventListener("dragleave", (event) => event.relatedTarget || root.classList.remove("dropping"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    root.classList.remove("dropping");
    send(event.dataTransfer.files);
  });
}

// Links with data-copy put what they lead to ("link": their own address) on the clipboard, and say so.
const said = document.querySelector("#said");
for (const link of document.querySelectorAll("a[data-copy]")) {
  link.addEventListener("click", async (event) => {
    if (!navigator.clipboard) return;
    event.preventDefault();
    try {
      const text = link.dataset.copy === "link" ? link.href : await (await fetch(link.href)).text();
      await navigator.clipboard.writeText(text);
      said.textContent = link.dataset.copy === "link" ? "Link copied" : `${link.textContent} copied`;
    } catch {
      said.textContent = "The browser did not allow to copy";
    }
    setTimeout(() => (said.textContent = ""), 2500);
  });
}

// A judgment goes without a new page; the buttons then say what the file says.
for (const form of document.querySelectorAll("form.judging-form")) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    event.stopPropagation();
    const pressed = event.submitter;
    const body = new URLSearchParams({ mark: pressed.value });
    const answer = await fetch(form.action, { method: "POST", body, headers: { accept: "application/json" } }).catch(() => null);
    if (!answer?.ok) {
      said.textContent = "That judgment could not be kept";
      return;
    }
    const [word, , id] = pressed.value.split(" ");
    for (const button of document.querySelectorAll("button[data-mark]")) {
      if (button.value.split(" ")[2] !== id) continue;
      const on = button.dataset.mark === word;
      button.setAttribute("aria-pressed", on);
      button.value = [on ? "undecided" : button.dataset.mark, ...button.value.split(" ").slice(1)].join(" ");
    }
    said.textContent = "";
  });
}

if (document.querySelector("[data-down]")) {
  const again = async () => {
    const answer = await fetch("/health").catch(() => null);
    if (answer?.ok) location.reload();
    else setTimeout(again, 2000);
  };
  setTimeout(again, 2000);
}
