-- Every request has a trace: the client's W3C traceparent when it is valid, else a new one made of the random request id.
-- Every reply, Envoy's own included, names it in x-trace-id (requirement row 8).

local SAMPLED_BELOW = {{ sampled_below }}  -- a new trace is sampled when its last 24 bits are below this

local function trace_of(traceparent)
  if traceparent == nil or #traceparent ~= 55 then return nil end
  local trace, parent = traceparent:match("^00%-([0-9a-f]+)%-([0-9a-f]+)%-[0-9a-f][0-9a-f]$")
  if trace == nil or #trace ~= 32 or #parent ~= 16 then return nil end
  if not trace:find("[^0]") or not parent:find("[^0]") then return nil end
  return trace
end

-- What gRPC parses while it still reads headers: a value that it cannot parse stays in the header table of the connection, which
-- all clients share, and fails the calls of others. A malformed one is taken away, as if it had not been sent.
local PARSED_EARLY = {
  ["grpc-timeout"] = "^%d%d?%d?%d?%d?%d?%d?%d?[HMSmun]$",
  ["grpc-previous-rpc-attempts"] = "^%d%d?%d?$",
  ["grpc-retry-pushback-ms"] = "^%d%d?%d?%d?%d?%d?$",
}

local function drop_malformed(headers)
  for name, pattern in pairs(PARSED_EARLY) do
    local value = headers:get(name)
    if value ~= nil and value:match(pattern) == nil then headers:remove(name) end
  end
end

function envoy_on_request(handle)
  local headers = handle:headers()
  drop_malformed(headers)
  local trace = trace_of(headers:get("traceparent"))
  if trace == nil then
    trace = headers:get("x-request-id"):gsub("-", "")
    local sampled = tonumber(trace:sub(-6), 16) < SAMPLED_BELOW
    -- Nothing recorded a parent span; the first half of the trace id stands for it.
    headers:replace("traceparent", "00-" .. trace .. "-" .. trace:sub(1, 16) .. (sampled and "-01" or "-00"))
    headers:remove("tracestate")
  end
  handle:streamInfo():dynamicMetadata():set("guildmesh", "trace_id", trace)
  -- "Bearer" is a word without case (RFC 9110, 11.1); Envoy's check of the token takes only this spelling.
  local authorization = headers:get("authorization")
  if authorization ~= nil and authorization:sub(1, 7) ~= "Bearer " and authorization:sub(1, 7):lower() == "bearer " then
    headers:replace("authorization", "Bearer " .. authorization:sub(8))
  end
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local own = handle:streamInfo():dynamicMetadata():get("guildmesh")
  if own ~= nil then headers:replace("x-trace-id", own.trace_id) end
  local kind = headers:get("content-type")
  if kind == nil or kind:sub(1, 16) ~= "application/grpc" then
    -- A REST client is told by the HTTP status and the body.
    headers:remove("grpc-status")
    headers:remove("grpc-message")
    headers:remove("grpc-status-details-bin")
    headers:remove("grpc-accept-encoding")
  end
  if headers:get(":status") == "401" then headers:replace("www-authenticate", "Bearer") end
end
