"""The page of `serve`: a form whose answer appears as it is written."""

from typing import get_args

from modules.generation import Strategy


def page(longest_prompt: int, most_tokens: int) -> str:
    """Return the page.

    Args:
        longest_prompt: Characters of a prompt at most.
        most_tokens: Tokens of a text at most.
    """
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8"><title>Language model</title>
<style>body {{ font: 16px/1.5 sans-serif; max-width: 44em; margin: 2em auto; padding: 0 1em }}
textarea {{ width: 100%; font: inherit }} label {{ margin-right: 1em }} input {{ width: 5em }}
output {{ white-space: pre-wrap }}
</style>
<h1>Continue a text</h1>
<form>
<textarea name="prompt" rows="4" maxlength="{longest_prompt}" placeholder="Once upon a time"></textarea>
<p><label>strategy <select name="strategy">
{"".join(f"<option>{name}</option>" for name in get_args(Strategy)[::-1])}</select></label>
<label>temperature <input name="temperature" type="number" value="1" min="0.1" max="10" step="0.1"></label>
<label>tokens <input name="max_new_tokens" type="number" value="100" min="1" max="{most_tokens}"></label>
<label>seed <input name="seed" type="number" value="0" min="0"></label>
<button>Write</button></p>
</form>
<output></output>
<script>
const form = document.querySelector("form"), output = document.querySelector("output");
form.onsubmit = async (event) => {{
  event.preventDefault();
  const wish = Object.fromEntries(new FormData(form));
  for (const name of ["temperature", "max_new_tokens", "seed"]) wish[name] = Number(wish[name]);
  output.textContent = wish.prompt;
  const answer = await fetch("/generate", {{
    method: "POST", headers: {{"content-type": "application/json"}}, body: JSON.stringify(wish)
  }});
  if (!answer.ok) {{ output.textContent = `refused (${{answer.status}}): ` + await answer.text(); return; }}
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let part; !(part = await reader.read()).done;) output.textContent += part.value;
}};
</script>
</html>
"""
