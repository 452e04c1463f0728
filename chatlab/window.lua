-- The conversation window: one Redis list, `messages:{a}:{b}`.
--   [0]   "fence:born:oldest"  the time of the last change that a fill may not undo · when this life began · seq of [1]
--   [1..] the newest messages, consecutive in seq, each as its JSON; none: the key is a fence alone
-- Times are microseconds of Redis's clock. The key expires at born + TTL, always. Each block that begins with `script NAME` is one atomic
-- single-key script that begins with the common part. Lines marked `guard:` are the rules that keep reads exact.
-- ARGV: 1 epoch (windows born before it are not trusted) · 2 TTL ms · 3 GRACE ms · 4 most messages · 5 began or token · 6.. the rest

-- common
local key = KEYS[1]
local epoch, ttl, grace, most, began = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])

local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

local now = clock()

local function integer(number) return string.format('%.0f', number) end

local function version_of(json) return tonumber(string.match(json, '^{"_id":"%x+","seq":%d+,"version":(%d+)')) or 0 end

local function header(window) return integer(window.fence) .. ':' .. integer(window.born) .. ':' .. integer(window.oldest) end

-- The window in the key. A key of another kind is none, and goes.
local function load()
  local kind = redis.call('TYPE', key).ok
  if kind == 'list' then
    local fence, born, oldest = string.match(redis.call('LINDEX', key, 0), '^(-?%d+):(%d+):(%d+)$')
    if fence then
      local window = {there = true, fence = tonumber(fence), born = tonumber(born), oldest = tonumber(oldest)}
      window.count = redis.call('LLEN', key) - 1
      window.newest = window.oldest + window.count - 1
      return window
    end
  end
  return {there = false, fence = -1, born = 0, oldest = 0, newest = -1, count = 0}
end

-- A new life of the key: born now, or at the token of a fill.
local function start(window, born, oldest, messages)
  local life = math.floor((born + ttl * 1000 - now) / 1000)
  redis.call('DEL', key)
  if life <= 0 then return end
  window.born, window.oldest = born, oldest
  redis.call('RPUSH', key, header(window), unpack(messages))
  redis.call('PEXPIRE', key, life)
end

-- Nothing but a fence, from now on: every fill whose token is not younger is refused.
local function drop(window)
  window.fence = now
  start(window, now, 0, {})
end

local function trim(window)
  local surplus = redis.call('LLEN', key) - 1 - most
  if surplus > 0 then
    redis.call('LTRIM', key, surplus, -1)
    window.oldest = window.oldest + surplus
    redis.call('LSET', key, 0, header(window))
  end
end

local function append(window, json)
  redis.call('RPUSH', key, json)
  trim(window)
end

-- Put a version in its place unless the window has it already, or a higher one.
local function replace(window, seq, json)
  local place = seq - window.oldest + 1
  if version_of(json) > version_of(redis.call('LINDEX', key, place)) then redis.call('LSET', key, place, json) end
end

-- True when a write of the service may not be put into this key, and a fence has been left instead.
local function fenced_off(window)
  local late = now - began > grace * 1000 -- guard: dropping after a late write
  local untrusted = window.there and window.born < epoch -- guard: trusting no window older than an outage
  if late or untrusted then
    drop(window)
    return true
  end
end

local function short_of_life(window)
  return redis.call('PTTL', key) < grace -- guard: a life of GRACE after each write
end

-- script send: 6 seq, 7 json
local window, seq, json = load(), tonumber(ARGV[6]), ARGV[7]
if fenced_off(window) then
  return 'fence'
elseif not window.there then
  start(window, now, seq, {json})
elseif window.count == 0 then
  drop(window)
  return 'fence'
elseif seq > window.newest and (seq > window.newest + 1 or short_of_life(window)) then
  start(window, now, seq, {json})
elseif seq > window.newest then
  append(window, json)
elseif seq >= window.oldest then
  replace(window, seq, json)
end
return 'window'

-- script change: 6 seq, 7 json
local window, seq, json = load(), tonumber(ARGV[6]), ARGV[7]
if fenced_off(window) then return 'fence' end
if window.count == 0 or seq > window.newest + 1 or short_of_life(window) then
  start(window, now, 0, {})
elseif seq == window.newest + 1 then
  append(window, json)
elseif seq >= window.oldest then
  replace(window, seq, json)
end
window.fence = now -- guard: the fence
redis.call('LSET', key, 0, header(window))
return 'window'

-- script fill: 6 widen (1 or 0), 7 seq of the first message, 8.. consecutive messages as JSON
local window, widen, first = load(), ARGV[6] == '1', tonumber(ARGV[7])
local count = #ARGV - 7
local last = first + count - 1
if now - began > grace * 1000 then return 'old' end -- guard: the age of a fill
if began < epoch then return 'old' end -- guard: no fill from before an outage
if window.there and window.born < epoch then
  drop(window)
  return 'untrusted'
end
if window.there and began <= window.fence then return 'fenced' end -- guard: the fence against a late fill
if window.count == 0 then
  if widen then return 'nothing to widen' end -- guard: widening only what is there
  local from = math.max(8, #ARGV - most + 1)
  start(window, began, first + from - 8, {unpack(ARGV, from)})
  return 'filled'
end
if last < window.oldest - 1 or first > window.newest + 1 then return 'apart' end
for seq = math.max(first, window.oldest), math.min(last, window.newest) do replace(window, seq, ARGV[8 + seq - first]) end
for seq = window.newest + 1, last do redis.call('RPUSH', key, ARGV[8 + seq - first]) end
local room = most - math.max(window.newest, last) + window.oldest - 1
local older = math.min(room, window.oldest - first)
if older > 0 then
  redis.call('LPOP', key)
  for seq = window.oldest - 1, window.oldest - older, -1 do redis.call('LPUSH', key, ARGV[8 + seq - first]) end
  window.oldest = window.oldest - older
  redis.call('LPUSH', key, 'header')
end
window.born = math.min(window.born, began)
redis.call('LSET', key, 0, header(window))
trim(window)
redis.call('PEXPIRE', key, math.max(1, math.floor((window.born + ttl * 1000 - now) / 1000)))
return 'joined'

-- script read: 6 limit (0: none), 7 before (-1: none), 8 after (-1: none)
-- Answers: now, fence, newest, oldest (newest = -1: no window to use), lowest and highest seq that was asked for, the messages of it, joined.
local window = load()
local limit, before, after = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
if window.count == 0 or window.born < epoch then return {integer(now), integer(window.fence), -1, 0, 0, 0, ''} end
local lowest, highest = 1, window.newest
if before >= 0 then highest = math.min(highest, before - 1) end
if after >= 0 then lowest = after + 1 end
if limit > 0 and after >= 0 then
  highest = math.min(highest, lowest + limit - 1)
elseif limit > 0 then
  lowest = math.max(lowest, highest - limit + 1)
end
local from = math.max(lowest, window.oldest)
local messages = {}
if from <= highest then messages = redis.call('LRANGE', key, from - window.oldest + 1, highest - window.oldest + 1) end
return {integer(now), integer(window.fence), window.newest, window.oldest, lowest, highest, table.concat(messages, ',')}

-- script message: `message:{_id}` of a send: 6 json
if now - began > grace * 1000 then return 0 end
if redis.call('SET', key, ARGV[6], 'PX', ttl, 'NX') then return 1 end
return 0

-- script message_change: `message:{_id}` of an edit, a deletion, a reaction: 6 json
if now - began > grace * 1000 then return 0 end
local old = redis.call('TYPE', key).ok == 'string' and redis.call('GET', key)
if old and version_of(old) >= version_of(ARGV[6]) then return 0 end
redis.call('SET', key, ARGV[6], 'PX', ttl)
return 1
