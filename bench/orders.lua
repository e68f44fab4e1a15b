-- wrk: POST /orders for random users out of USERS_FILE (one id a line); at the end, the figures as one line of JSON.
local users = {}
for line in io.lines(os.getenv("USERS_FILE")) do users[#users + 1] = line end
math.randomseed(os.time())

request = function()
  local body = string.format('{"user_id":"%s","price":1}', users[math.random(#users)])
  return wrk.format("POST", "/orders", {["Content-Type"] = "application/json"}, body)
end

done = function(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    '\n{"orders": %d, "seconds": %.6f, "p50_ms": %.3f, "p99_ms": %.3f, "failed": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
