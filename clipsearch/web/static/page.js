// The page works without this file. It only saves clicks: submit on change, drop or paste an image, come back by itself.
const search = document.querySelector("#search");
const upload = document.querySelector("#upload");

for (const control of document.querySelectorAll("[form=search]")) {
  control.addEventListener("change", () => search.q.value.trim() && search.requestSubmit());
}

search.addEventListener("submit", () => {
  // Leave out of the URL what has its default.
  const alpha = document.querySelector("[name=alpha]");
  alpha.disabled = document.querySelector("[name=ranking]:checked")?.value !== "hybrid_linear";
});
addEventListener("pageshow", () => {
  document.querySelector("[name=alpha]").disabled = false;
});

if (upload) {
  upload.classList.add("instant");
  const send = (files) => {
    const image = [...files].find((file) => file.type.startsWith("image/"));
    if (!image) return;
    const transfer = new DataTransfer();
    transfer.items.add(image);
    upload.image.files = transfer.files;
    upload.classList.add("busy");
    upload.requestSubmit();
  };
  upload.image.addEventListener("change", () => {
    upload.classList.add("busy");
    upload.requestSubmit();
  });
  addEventListener("paste", (event) => send(event.clipboardData?.files ?? []));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    send(event.dataTransfer.files);
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
