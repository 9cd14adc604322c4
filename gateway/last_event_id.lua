-- A browser resumes server-sent events by the header Last-Event-ID (HTML standard, 9.2.4); the method reads a query parameter.

function envoy_on_request(handle)
  local headers = handle:headers()
  local last = headers:get("last-event-id")
  if last == nil then return end
  -- Escaped, so that whatever it holds reaches the method's own check as this one parameter.
  local escaped = last:gsub("[^%w]", function(char) return string.format("%%%02X", char:byte()) end)
  local path, query = headers:get(":path"):match("^([^?]*)%??(.*)$")
  local kept = {}
  for part in query:gmatch("[^&]+") do
    if not part:find("^last_event_id=") then kept[#kept + 1] = part end
  end
  kept[#kept + 1] = "last_event_id=" .. escaped
  headers:replace(":path", path .. "?" .. table.concat(kept, "&"))
end
