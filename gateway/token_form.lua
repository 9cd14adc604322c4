-- POST /auth/token also takes a form, as OAuth 2.0 clients send it (RFC 6749, 4.3.2); the transcoder reads only JSON.

local function decoded(text)
  return (text:gsub("%+", " "):gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end))
end

local function quoted(text)
  return '"' .. text:gsub('[%c"\\\127]', function(char) return string.format("\\u%04x", char:byte()) end) .. '"'
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local kind = headers:get("content-type")
  if kind == nil or not kind:lower():find("^application/x%-www%-form%-urlencoded") then return end
  local fields = {}
  local body = handle:body()
  if body ~= nil then
    for name, value in body:getBytes(0, body:length()):gmatch("([^&=]+)=([^&]*)") do
      name = decoded(name)
      -- What else OAuth 2.0 sends (grant_type, scope) says nothing that we need.
      if name == "username" or name == "password" then fields[name] = decoded(value) end
    end
  end
  local members = {}
  for name, value in pairs(fields) do members[#members + 1] = quoted(name) .. ":" .. quoted(value) end
  local json = "{" .. table.concat(members, ",") .. "}"
  if body ~= nil then headers:replace("content-length", body:setBytes(json)) end
  headers:replace("content-type", "application/json")
end
