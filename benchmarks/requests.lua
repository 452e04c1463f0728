-- For wrk: the requests of a file, one after the other and round again; the outcome as one line of JSON.
-- A line of the file: method, path, token and body, with tabs between.

local requests, turn = {}, 0

function init(args)
  for line in io.lines(args[1]) do
    local method, path, token, body = string.match(line, '([^\t]*)\t([^\t]*)\t([^\t]*)\t([^\t]*)')
    local headers = {Host = wrk.headers['Host'], Authorization = 'Bearer ' .. token}
    if body ~= '' then headers['Content-Type'] = 'application/json' else body = nil end
    requests[#requests + 1] = wrk.format(method, path, headers, body)
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

function done(summary, latency)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.timeout + errors.status
  print(string.format('{"requests": %d, "seconds": %.6f, "failed": %d, "p50": %.3f, "p95": %.3f, "p99": %.3f}',
    summary.requests, summary.duration / 1e6, failed,
    latency:percentile(50) / 1e3, latency:percentile(95) / 1e3, latency:percentile(99) / 1e3))
end
