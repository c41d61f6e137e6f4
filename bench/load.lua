-- Sends the requests of a folder, one after the other and over again, as `wrk -s` runs it:
--   wrk ... URL -- FOLDER COUNT CONNECTIONS SECONDS
-- FOLDER holds the requests as they go over the wire, in files named 1 to COUNT.
--
-- After SECONDS no request begins any more; when all answers are in, the line "drained" is printed,
-- and wrk can be interrupted. So only whole requests are counted, however long one takes.

local ffi = require("ffi")
ffi.cdef("typedef struct { long seconds, micros; } bench_time; int gettimeofday(bench_time *, void *);")
local clock = ffi.new("bench_time")

local function now()
  ffi.C.gettimeofday(clock, nil)
  return tonumber(clock.seconds) + tonumber(clock.micros) / 1e6
end

local requests, position, connections, seconds, waiting = {}, 0, 0, 0, 0
local thread
-- Read by `done`, which runs elsewhere and sees globals only.
answered, failed, failure, began, ended = 0, 0, "", nil, 0

function setup(it)
  thread = it
end

function init(arguments)
  for number = 1, tonumber(arguments[2]) do
    local file = assert(io.open(arguments[1] .. "/" .. number, "rb"))
    requests[number] = file:read("*a")
    file:close()
  end
  connections, seconds = tonumber(arguments[3]), tonumber(arguments[4])
end

function request()
  began = began or now()
  position = position % #requests + 1
  return requests[position]
end

-- wrk asks this before every request but the first of a connection: for how many milliseconds to wait.
function delay()
  if now() < began + seconds then
    return 0
  end
  waiting = waiting + 1
  if waiting == connections then
    io.write("drained\n")
    io.flush()
  end
  return 3600 * 1000
end

function response(status, headers, body)
  answered, ended = answered + 1, now()
  if status < 200 or status > 299 then
    failed = failed + 1
    if failure == "" then
      failure = status .. " " .. string.sub(body or "", 1, 200):gsub("%s+", " ")
    end
  end
end

function done(summary, latency, rate)
  local errors = summary.errors
  local sockets = errors.connect + errors.read + errors.write + errors.timeout
  print(string.format(
    "measured %d %.6f %.3f %.3f %d %d %s",
    thread:get("answered"), thread:get("ended") - thread:get("began"),
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    sockets, thread:get("failed"), thread:get("failure")
  ))
end
