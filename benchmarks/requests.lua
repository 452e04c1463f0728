-- For wrk: send the requests of a file in a loop, and print the figures as one line of JSON.
-- Each line of the file has a method, a path, a token and a body, separated by tabs.

local requests, sent = {}, 0

function init(args)
  for line in io.lines(args[1]) do
    local method, path, token, body = string.match(line, '([^\t]*)\t([^\t]*)\t([^\t]*)\t([^\t]*)')
    local headers = {Host = wrk.headers['Host'], Authorization = 'Bearer ' .. token}
    if body ~= '' then headers['Content-Type'] = 'application/json' else body = nil end
    requests[#requests + 1] = wrk.format(method, path, headers, body)
  end
end

function request()
  sent = sent % #requests + 1
  return requests[sent]
end

function done(summary, latency)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.timeout + errors.status
  print(string.format('{"requests": %d, "seconds": %.6f, "failed": %d, "p50": %.3f, "p95": %.3f, "p99": %.3f}',
    summary.requests, summary.duration / 1e6, failed,
    latency:percentile(50) / 1e3, latency:percentile(95) / 1e3, latency:percentile(99) / 1e3))
end
