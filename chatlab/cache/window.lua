-- The conversation window: one Redis list, `messages:{a}:{b}`. The protocol is explained in docs/cache.md.
--   [0]   the header "fence:born:oldest"
--           fence   when the last change came. A fill that read MongoDB before this time may lack the change. -1: no change
--           born    the window holds everything that MongoDB held at this time, as far back as the window reaches
--           oldest  the seq of element [1]
--   [1..] the newest messages as JSON, consecutive in seq. A list without messages is a fence alone
-- All times are microseconds of Redis time. The key always expires at born + TTL. So nothing in a window is older than
-- one TTL, whatever else fails.
--
-- Each block that starts with `script NAME` is one script: it runs atomically and touches one key. The common block is
-- put in front of every script. The arguments are built in window.py:
--   ARGV 1 trusted_since (windows born before it are not trusted) · 2 TTL of a window in ms · 3 grace period in ms
--   · 4 largest number of messages in a window · 5 began: the time when the write began, or the fill token · 6.. see the script
-- A line whose comment begins with `guard:` keeps a rare schedule harmless. tests/processes/test_window.py removes each of these
-- lines and shows that a read then goes wrong.

-- common
local key = KEYS[1]
local trusted_since, ttl_ms, grace_ms = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local window_size, began = tonumber(ARGV[4]), tonumber(ARGV[5])

local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

local now = clock()
-- A time in the future is from before the clock of Redis stepped back. It does not say how long ago that was.
local late = now - began > grace_ms * 1000 or began > now -- guard: no command from the future

local function integer(number) return string.format('%.0f', number) end

local function version_of(json) return tonumber(string.match(json, '^{"_id":"%x+","seq":%d+,"version":(%d+)')) or 0 end

-- Return the copy with the higher version. Either copy may be missing.
local function higher_version(kept, given)
  if kept and given and version_of(given) <= version_of(kept) then return kept end -- guard: the higher version wins
  return given or kept
end

local function header(window) return integer(window.fence) .. ':' .. integer(window.born) .. ':' .. integer(window.oldest) end

-- Read the header and the length of the window. `exists` is false if there is no key, or if another program stored
-- something else under it; the next write replaces such a value. `count` is 0 if the window is not trusted.
local function load_window()
  local head = redis.pcall('LINDEX', key, 0)
  local fence, born, oldest = string.match(type(head) == 'string' and head or '', '^(-?%d+):(%d+):(%d+)$')
  local window = {exists = fence ~= nil, fence = tonumber(fence or -1), born = tonumber(born or 0), oldest = tonumber(oldest or 0), count = 0}
  local trusted = window.born >= trusted_since -- guard: trusting no window older than an outage
  if window.born > now or window.fence > now then trusted, window.fence = false, -1 end -- guard: no window from the future
  local length = window.exists and redis.call('LLEN', key) - 1 or 0
  if trusted then window.count = length end
  window.is_distrusted = length > window.count -- by this process. Others may trust it
  window.newest = window.oldest + window.count - 1
  return window
end

-- Replace the window by these messages. At the time `born` they were the newest messages of the conversation.
local function start(window, born, oldest, messages)
  window.born, window.oldest = math.min(born, now), oldest
  redis.call('DEL', key)
  redis.call('RPUSH', key, header(window))
  for from = 1, #messages, 1000 do -- the stack of Lua cannot take 10,000 arguments at once
    redis.call('RPUSH', key, unpack(messages, from, math.min(from + 999, #messages)))
  end
  redis.call('PEXPIRE', key, math.floor((window.born + ttl_ms * 1000 - now) / 1000))
end

-- Replace the window by a fence alone. Fills with a token up to now will be refused.
local function leave_fence(window)
  window.fence = now
  start(window, now, 0, {})
  return 'fence'
end

local function append(window, json)
  redis.call('RPUSH', key, json)
  local surplus = window.count + 1 - window_size
  if surplus > 0 then -- remove the header and all surplus messages but the last; the new header overwrites that one
    redis.call('LTRIM', key, surplus, -1)
    window.oldest = window.oldest + surplus
    redis.call('LSET', key, 0, header(window))
  end
end

local function replace(window, seq, json)
  local index = seq - window.oldest + 1
  redis.call('LSET', key, index, higher_version(redis.call('LINDEX', key, index), json))
end

local function expires_too_soon()
  return redis.call('PTTL', key) < grace_ms -- guard: a grace period of TTL after each write
end

-- script send: 6 seq, 7 json
-- Add a new message. Returns 'window' or 'fence': what the key holds now.
local window, seq, json = load_window(), tonumber(ARGV[6]), ARGV[7]
if late then return leave_fence(window) end -- guard: dropping after a late send
if window.exists and window.count == 0 then return leave_fence(window) end -- guard: no start on a fence
if seq == window.newest + 1 and not expires_too_soon() then
  append(window, json)
elseif seq > window.newest then
  start(window, began, seq, {json}) -- guard: a window as old as what it knows
elseif seq >= window.oldest then
  replace(window, seq, json)
end
return 'window'

-- script change: 6 seq, 7 json
-- Replace a changed message and set the fence. Returns 'window' or 'fence': what the key holds now.
local window, seq, json = load_window(), tonumber(ARGV[6]), ARGV[7]
if window.count == 0 or seq > window.newest + 1 or expires_too_soon() then return leave_fence(window) end
if seq == window.newest + 1 then
  append(window, json)
elseif seq >= window.oldest then
  replace(window, seq, json)
end
window.fence = now -- guard: the fence of a change
redis.call('LSET', key, 0, header(window))
return 'window'

-- script fill: 6 widen (1 or 0), 7 seq of the first message, 8.. consecutive messages as JSON
-- Merge what a reader read from MongoDB after its fill token (`began`). With `widen` the messages are older than a part
-- that the reader took from the window. Returns 'filled' or 'joined', or why the fill is refused.
local window, widen, first = load_window(), ARGV[6] == '1', tonumber(ARGV[7])
local last = first + #ARGV - 8
if late then return 'old' end -- guard: the age of a fill
if began <= window.fence then return 'fenced' end -- guard: the fence against a late fill
if window.is_distrusted then leave_fence(window) return 'distrusted' end -- guard: no fill over a window that others trust
if window.count == 0 then
  if widen then return 'nothing to widen' end -- guard: widening only an existing window
  window.oldest, window.newest, window.born = first, first - 1, began
end
if last < window.oldest - 1 or first > window.newest + 1 then return 'apart' end -- guard: no gap
if last < window.oldest and window.count >= window_size then return 'full' end
local newest = math.max(window.newest, last)
local oldest = math.max(math.min(window.oldest, first), newest - window_size + 1)
local kept = window.count > 0 and redis.call('LRANGE', key, 1, -1) or {}
local messages = {}
for seq = oldest, newest do
  messages[#messages + 1] = higher_version(kept[seq - window.oldest + 1], seq >= first and ARGV[8 + seq - first])
end
start(window, math.min(window.born, began), oldest, messages) -- guard: joined, as old as the older of the two
return window.count > 0 and 'joined' or 'filled'

-- script fence: no further arguments
-- Leave a fence alone in place of a window that lacks a write. Returns 'fence'.
return leave_fence(load_window())

-- script read: 6 limit (0: none), 7 before (-1: none), 8 after (-1: none)
-- Returns Redis time, fence, newest and oldest seq of the window, lowest and highest seq of the page. Without a trusted
-- window: Redis time, fence, -1. The messages come from an LRANGE in the same MULTI: if this script returned them, Lua
-- would copy each one for 1.5 us, and 50 messages took 80 to 140 us.
local window = load_window()
local limit, before, after = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
if window.count == 0 then
  local fence = window.is_distrusted and now or window.fence -- guard: no shared query over a window that others trust
  return {integer(now), integer(fence), -1}
end
redis.call('SETNX', key, '') -- changes nothing, because the key exists. It fails where writes fail: the window may then lack one
local lowest, highest = 1, window.newest
if before >= 0 then highest = math.min(highest, before - 1) end
if after >= 0 then lowest = after + 1 end
if limit > 0 and after >= 0 then
  highest = math.min(highest, lowest + limit - 1)
elseif limit > 0 then
  lowest = math.max(lowest, highest - limit + 1)
end
return {integer(now), integer(window.fence), window.newest, window.oldest, lowest, highest}

-- script message: 6 TTL of the entry in ms, 7 json
-- Write `message:{_id}` for a new message. Returns 1 if it was written.
if late then return 0 end -- guard: no late message
if redis.call('SET', key, ARGV[7], 'PX', ARGV[6], 'NX') then return 1 end -- guard: a send never replaces
return 0

-- script message_change: 6 TTL of the entry in ms, 7 json
-- Write `message:{_id}` for an edited, deleted or reacted-to message, for a new TTL. Returns 1 if it was written.
if late then return 0 end -- guard: no late change of a message
local old = redis.pcall('GET', key)
if type(old) == 'string' and higher_version(old, ARGV[7]) == old then return 0 end
redis.call('SET', key, ARGV[7], 'PX', ARGV[6])
return 1
