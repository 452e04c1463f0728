-- The conversation window: one Redis list, `messages:{a}:{b}`.
--   [0]   "fence:born:oldest"  the time of the last change that a fill may not undo · when this life began · seq of [1]
--   [1..] the newest messages, consecutive in seq, each as its JSON; none: the key is a fence alone
-- Times are microseconds of Redis's clock. A window holds all that was in MongoDB when it was born, as far back as it reaches, and the key
-- expires at born + TTL, always: so whatever else fails, nothing in it is older than one TTL.
-- Each block that begins with `script NAME` is one atomic single-key script that begins with the common part.
-- Lines marked `guard:` are the rules that keep reads exact; tests/test_window.py takes each away and sees a read go wrong.
-- ARGV: 1 epoch (windows born before it are not trusted) · 2 TTL ms · 3 GRACE ms · 4 most messages · 5 began or token · 6.. the rest

-- common
local key = KEYS[1]
local epoch, ttl, grace, most, began = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])

local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

local now = clock()
local late = now - began > grace * 1000

local function integer(number) return string.format('%.0f', number) end

local function version_of(json) return tonumber(string.match(json, '^{"_id":"%x+","seq":%d+,"version":(%d+)')) or 0 end

local function higher(kept, given)
  if kept and given and version_of(given) <= version_of(kept) then return kept end -- guard: the higher version wins
  return given or kept
end

local function header(window) return integer(window.fence) .. ':' .. integer(window.born) .. ':' .. integer(window.oldest) end

-- The window in the key. `there`: the key is ours; a key of another kind is none, and the next write replaces it.
local function load()
  local head = redis.pcall('LINDEX', key, 0)
  local fence, born, oldest = string.match(type(head) == 'string' and head or '', '^(-?%d+):(%d+):(%d+)$')
  local window = {there = fence ~= nil, fence = tonumber(fence or -1), born = tonumber(born or 0), oldest = tonumber(oldest or 0), count = 0}
  local trusted = window.born >= epoch -- guard: trusting no window older than an outage
  if window.there and trusted then window.count = redis.call('LLEN', key) - 1 end
  window.newest = window.oldest + window.count - 1
  return window
end

-- A new life of the key, as if begun at `born`: when the messages in it were known to be the newest.
local function start(window, born, oldest, messages)
  window.born, window.oldest = math.min(born, now), oldest
  redis.call('DEL', key)
  redis.call('RPUSH', key, header(window))
  for from = 1, #messages, 1000 do -- Lua's stack holds some thousand values
    redis.call('RPUSH', key, unpack(messages, from, math.min(from + 999, #messages)))
  end
  redis.call('PEXPIRE', key, math.floor((window.born + ttl * 1000 - now) / 1000))
end

-- Nothing but a fence, from now on: every fill whose token is not younger is refused.
local function drop(window)
  window.fence = now
  start(window, now, 0, {})
  return 'fence'
end

local function append(window, json)
  redis.call('RPUSH', key, json)
  local surplus = window.count + 1 - most
  if surplus > 0 then -- the header goes with the oldest ones, and takes the place of the last of them
    redis.call('LTRIM', key, surplus, -1)
    window.oldest = window.oldest + surplus
    redis.call('LSET', key, 0, header(window))
  end
end

local function replace(window, seq, json)
  local place = seq - window.oldest + 1
  redis.call('LSET', key, place, higher(redis.call('LINDEX', key, place), json))
end

local function short_of_life()
  return redis.call('PTTL', key) < grace -- guard: a life of GRACE after each write
end

-- script send: 6 seq, 7 json
local window, seq, json = load(), tonumber(ARGV[6]), ARGV[7]
if late then return drop(window) end -- guard: dropping after a late send
if window.there and window.count == 0 then return drop(window) end -- guard: no start on a fence
if seq == window.newest + 1 and not short_of_life() then
  append(window, json)
elseif seq > window.newest then
  start(window, began, seq, {json}) -- guard: a window as old as what it knows
elseif seq >= window.oldest then
  replace(window, seq, json)
end
return 'window'

-- script change: 6 seq, 7 json
local window, seq, json = load(), tonumber(ARGV[6]), ARGV[7]
if window.count == 0 or seq > window.newest + 1 or short_of_life() then return drop(window) end
if seq == window.newest + 1 then
  append(window, json)
elseif seq >= window.oldest then
  replace(window, seq, json)
end
window.fence = now -- guard: the fence of a change
redis.call('LSET', key, 0, header(window))
return 'window'

-- script fill: 6 widen (1 or 0), 7 seq of the first message, 8.. consecutive messages as JSON
local window, widen, first = load(), ARGV[6] == '1', tonumber(ARGV[7])
local last = first + #ARGV - 8
if late then return 'old' end -- guard: the age of a fill
if began <= window.fence then return 'fenced' end -- guard: the fence against a late fill
if window.count == 0 then
  if widen then return 'nothing to widen' end -- guard: widening only what is there
  window.oldest, window.newest, window.born = first, first - 1, began
end
if last < window.oldest - 1 or first > window.newest + 1 then return 'apart' end -- guard: no gap
if last < window.oldest and window.count >= most then return 'full' end
local newest = math.max(window.newest, last)
local oldest = math.max(math.min(window.oldest, first), newest - most + 1)
local kept = window.count > 0 and redis.call('LRANGE', key, 1, -1) or {}
local messages = {}
for seq = oldest, newest do
  messages[#messages + 1] = higher(kept[seq - window.oldest + 1], seq >= first and ARGV[8 + seq - first])
end
start(window, math.min(window.born, began), oldest, messages) -- guard: joined, as old as the older of the two
return window.count > 0 and 'joined' or 'filled'

-- script fence: for a window that a write did not reach
return drop(load())

-- script read: 6 limit (0: none), 7 before (-1: none), 8 after (-1: none)
-- Answers: now, fence, newest, oldest, lowest and highest seq that was asked for; newest = -1, and nothing more: no window to use.
-- The messages are asked for by an LRANGE in the same step: through Lua each would be copied, for 1.5 us, and 50 of them took 80 to 140 us.
local window = load()
local limit, before, after = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
if window.count == 0 then return {integer(now), integer(window.fence), -1} end
redis.call('SETNX', key, '') -- does nothing, for the key is there; fails where writes fail: then this window may lack one
local lowest, highest = 1, window.newest
if before >= 0 then highest = math.min(highest, before - 1) end
if after >= 0 then lowest = after + 1 end
if limit > 0 and after >= 0 then
  highest = math.min(highest, lowest + limit - 1)
elseif limit > 0 then
  lowest = math.max(lowest, highest - limit + 1)
end
return {integer(now), integer(window.fence), window.newest, window.oldest, lowest, highest}

-- script message: `message:{_id}` of a send: 6 json
if late then return 0 end -- guard: no late message
if redis.call('SET', key, ARGV[6], 'PX', ttl, 'NX') then return 1 end -- guard: a send never replaces
return 0

-- script message_change: `message:{_id}` of an edit, a deletion, a reaction: 6 json
if late then return 0 end -- guard: no late change of a message
local old = redis.pcall('GET', key)
if type(old) == 'string' and higher(old, ARGV[6]) == old then return 0 end
redis.call('SET', key, ARGV[6], 'PX', ttl)
return 1
